// The machine's limits: what its memory delivers and what its registers compute, on all threads at once.
//
//     probe THREADS MEBIBYTES ROUNDS SECONDS
//
// Prints JSON: for each limit the value of each round, GB/s (10^9) or GFLOP/s. What this CPU lacks is an empty list.
// Compile with -O3 -march=native -ffp-contract=fast: the instruction sets are those that the compiler found.

#include <barrier>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(__AMX_BF16__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif
typedef float Floats __attribute__((vector_size(kBytes)));
typedef std::uint64_t Words __attribute__((vector_size(kBytes)));

// Enough independent sums for a latency of 4 to 6 cycles on two ports, and as many as AVX2 has registers for.
constexpr int kSums = 12;
constexpr int kInner = 4096;
using Sums = std::make_integer_sequence<int, kSums>;

using Clock = std::chrono::steady_clock;

double since(Clock::time_point begun) { return std::chrono::duration<double>(Clock::now() - begun).count(); }

volatile double sink;
volatile float one = 1.0f;

// Runs `work(thread)` on all threads from one moment on; returns what all of them did per second.
double together(int threads, const std::function<double(int)> &work) {
  std::barrier<> start(threads), end(threads);
  std::vector<double> done(threads);
  double seconds = 0;
  std::vector<std::thread> running;
  for (int t = 0; t < threads; ++t)
    running.emplace_back([&, t] {
      start.arrive_and_wait();
      const auto begun = Clock::now();
      done[t] = work(t);
      end.arrive_and_wait();
      if (t == 0) seconds = since(begun);
    });
  for (auto &thread : running) thread.join();
  double sum = 0;
  for (double own : done) sum += own;
  return sum / seconds;
}

// Repeats a piece of work of a fixed size until the time is up; returns how much was done.
template <typename Piece> double repeated(double seconds, double size, Piece piece) {
  const auto begun = Clock::now();
  double done = 0;
  do {
    piece();
    done += size;
  } while (since(begun) < seconds);
  return done;
}

double read_all(const char *memory, std::size_t bytes) {
  Words sums[8] = {};
  for (std::size_t at = 0; at + 8 * kBytes <= bytes; at += 8 * kBytes)
#pragma GCC unroll 8
    for (int n = 0; n < 8; ++n) sums[n] ^= *reinterpret_cast<const Words *>(memory + at + n * kBytes);
  Words all = {};
  for (const Words &sum : sums) all ^= sum;
  return static_cast<double>(all[0]);
}

// The sums are spelt out by a fold: gcc unrolls a loop over more than 8 too late to keep the array in registers.
template <int... n> double fma_f32(std::integer_sequence<int, n...>) {
  const float start = one;
  Floats by = {}, add = {}, all = {};
  by += start * 0.999f;
  add += start * 0.001f;
  Floats sums[kSums] = {(by + static_cast<float>(n))...};
  for (int k = 0; k < kInner; ++k) ((sums[n] = sums[n] * by + add), ...);
  ((all += sums[n]), ...);
  return all[0];
}
constexpr double kFmaOperations = 2.0 * kInner * kSums * (kBytes / 4);

#if defined(__AVX512BF16__)
template <int... n> double dot_bf16(std::integer_sequence<int, n...>) {
  const __m512bh x = (__m512bh)_mm512_set1_epi32(0x3c003c00), y = (__m512bh)_mm512_set1_epi32(0x3c103c10);
  __m512 sums[kSums] = {_mm512_set1_ps(static_cast<float>(n))...}, all = _mm512_setzero_ps();
  // Without the empty instruction the compiler might see that each step adds the same.
  const auto step = [&](__m512 &sum) {
    sum = _mm512_dpbf16_ps(sum, x, y);
    asm volatile("" : "+v"(sum));
  };
  for (int k = 0; k < kInner; ++k) (step(sums[n]), ...);
  ((all = _mm512_add_ps(all, sums[n])), ...);
  return _mm512_cvtss_f32(all);
}
constexpr double kDotOperations = 2.0 * kInner * kSums * 32;
#endif

#if defined(__AMX_BF16__)
struct alignas(64) TileConfig {
  std::uint8_t palette, start_row, reserved[14];
  std::uint16_t columns[16];
  std::uint8_t rows[16];
};

// Linux gives tiles to a process that asks (arch_prctl ARCH_REQ_XCOMP_PERM for XFEATURE_XTILEDATA).
bool tiles_allowed() { return syscall(SYS_arch_prctl, 0x1023, 18) == 0; }

double tile_bf16() {
  alignas(64) static const char operands[1024] = {};
  TileConfig config = {};
  config.palette = 1;
  for (int tile = 0; tile < 8; ++tile) config.columns[tile] = 64, config.rows[tile] = 16;
  asm volatile("" ::"r"(&config) : "memory"); // gcc 12 drops the stores above otherwise
  _tile_loadconfig(&config);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(4, operands, 64);
  _tile_loadd(5, operands, 64);
  _tile_loadd(6, operands, 64);
  _tile_loadd(7, operands, 64);
  for (int k = 0; k < kInner; ++k) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  alignas(64) float out[256];
  _tile_stored(0, out, 64);
  _tile_release();
  return out[0];
}
constexpr double kTileOperations = 4.0 * kInner * 2 * 16 * 16 * 32;
#endif

void print(const char *name, const std::vector<double> &values, bool last = false) {
  std::printf("\"%s\": [", name);
  for (std::size_t n = 0; n < values.size(); ++n) std::printf("%s%.3f", n ? ", " : "", values[n]);
  std::printf("]%s\n", last ? "" : ",");
}

} // namespace

int main(int argc, char **argv) {
  if (argc != 5) return std::fprintf(stderr, "usage: probe THREADS MEBIBYTES ROUNDS SECONDS\n"), 2;
  const int threads = std::atoi(argv[1]), rounds = std::atoi(argv[3]);
  const double seconds = std::atof(argv[4]);
  const std::size_t bytes = (static_cast<std::size_t>(std::atol(argv[2])) << 20) / threads;

  std::vector<std::unique_ptr<char, decltype(&std::free)>> memory;
  for (int t = 0; t < threads; ++t) {
    memory.emplace_back(static_cast<char *>(std::aligned_alloc(4096, bytes / 4096 * 4096)), &std::free);
    std::memset(memory.back().get(), t + 1, bytes / 4096 * 4096);
  }
  const std::size_t own = bytes / 4096 * 4096;
  const auto compute = [&](double operations, auto piece) {
    return together(threads, [&](int) { return repeated(seconds, operations, [&] { sink = piece(); }); }) / 1e9;
  };
  std::vector<double> read, fma, dot, tile;
  for (int round = 0; round < rounds; ++round) {
    read.push_back(together(threads, [&](int t) {
                     return repeated(seconds, own, [&] { sink = read_all(memory[t].get(), own); });
                   }) / 1e9);
    fma.push_back(compute(kFmaOperations, [] { return fma_f32(Sums()); }));
#if defined(__AVX512BF16__)
    dot.push_back(compute(kDotOperations, [] { return dot_bf16(Sums()); }));
#endif
#if defined(__AMX_BF16__)
    if (tiles_allowed()) tile.push_back(compute(kTileOperations, tile_bf16));
#endif
  }
  std::printf("{");
  print("read", read), print("fma_f32", fma), print("dot_bf16", dot), print("tile_bf16", tile, true);
  std::printf("}\n");
}
