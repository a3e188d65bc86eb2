#include "threads.h"

#include <sched.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace expertmesh {
namespace {

// Turns of waiting for a unit that another thread computes, before the core is offered to others.
constexpr int kSpins = 2000;

void relax() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

template <class Condition>
void spin_until(Condition done) {
    for (int turn = 0; !done(); ++turn) {
        if (turn < kSpins) relax();
        else sched_yield();
    }
}

struct alignas(64) Progress {
    std::atomic<int64_t> next{0};
    std::atomic<int64_t> done{0};
};

struct Job {
    const Phase* phases;
    int count;
    void* context;
    Progress progress[kMostPhases];

    void work() {
        for (int i = 0; i < count; ++i) {
            const int64_t units = phases[i].units;
            Progress& at = progress[i];
            for (int64_t unit; (unit = at.next.fetch_add(1, std::memory_order_relaxed)) < units;) {
                phases[i].run(context, unit);
                at.done.fetch_add(1, std::memory_order_release);
            }
            spin_until([&] { return at.done.load(std::memory_order_acquire) >= units; });
        }
    }
};

class Pool {
public:
    // The process's end must not join threads that wait: they are never destroyed.
    static Pool& instance() {
        static Pool* pool = new Pool;
        return *pool;
    }

    void run(int threads, Job& job) {
        std::unique_lock<std::mutex> turn(turn_, std::try_to_lock);
        if (threads < 2 || !turn.owns_lock()) {
            job.work();
            return;
        }
        open(threads - 1, job);
        job.work();
        close();
    }

private:
    void open(int helpers, Job& job) {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            while (static_cast<int>(workers_) < helpers) {
                std::thread(&Pool::serve, this).detach();
                ++workers_;
            }
            job_ = &job;
            places_ = helpers;
        }
        for (int i = 0; i < helpers; ++i) wake_.notify_one();
    }

    // Late threads find no job; those inside have no unit left and leave at once.
    void close() {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            job_ = nullptr;
            places_ = 0;
        }
        spin_until([&] { return inside_.load(std::memory_order_acquire) == 0; });
    }

    void serve() {
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            wake_.wait(lock, [&] { return job_ != nullptr && places_ > 0; });
            Job* job = job_;
            --places_;
            inside_.fetch_add(1, std::memory_order_relaxed);
            lock.unlock();
            job->work();
            inside_.fetch_sub(1, std::memory_order_release);
            lock.lock();
        }
    }

    std::mutex turn_;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::atomic<int> inside_{0};
    Job* job_ = nullptr;
    int places_ = 0;
    int workers_ = 0;
};

}  // namespace

void run_phases(int threads, const Phase* phases, int count, void* context) {
    Job job{phases, count, context, {}};
    Pool::instance().run(threads, job);
}

}  // namespace expertmesh
