#include "choice.h"

#include <algorithm>
#include <new>
#include <vector>

namespace expertmesh {
namespace {

constexpr double kWorth = 0.99;
constexpr int32_t kNobody = -1;

struct Came {
    int32_t shard;  // kNobody: not yet reached
    int32_t expert;
    int32_t to;
};

// Kept from call to call, so that a choice takes no memory.
struct Rooms {
    std::vector<int32_t> experts, pairs, free, order, at, kept, first, next, queue;
    std::vector<Came> came;
};

class Search {
   public:
    Search(const ChooseCall& call, Rooms& rooms) : c_(call), r_(rooms) {
        r_.experts.assign(c_.shards, 0);
        r_.pairs.assign(c_.shards, 0);
        r_.at.assign(c_.experts, 0);
        r_.free.clear();
        std::fill_n(c_.given, c_.starts[c_.experts], 0);
        for (int32_t e = 0; e < c_.experts; ++e)
            if (c_.pairs[e] > 0) begin(e);
    }

    int32_t run() {
        if (r_.free.empty()) return finish();
        spread();
        make_room();
        keep_if_faster([this] { split(); }, kWorth);
        keep_if_faster([this] { evenly(); }, 1.0);
        keep_if_faster([this] { in_turns(); }, 1.0);
        return finish();
    }

   private:
    // An expert with one holder in reach is that one's; the others are free.
    void begin(int32_t e) {
        int32_t only = kNobody, several = 0;
        for (int32_t k = c_.starts[e]; k < c_.starts[e + 1]; ++k)
            if (may(e, k)) ++several, only = k;
        if (several == 1)
            give(only, c_.pairs[e]);
        else
            r_.free.push_back(e);
    }

    // Whether holder k of expert e is one of the lowest rank.
    bool may(int32_t e, int32_t k) const {
        const int32_t rank = c_.ranks[c_.holders[k]];
        for (int32_t other = c_.starts[e]; other < c_.starts[e + 1]; ++other)
            if (c_.ranks[c_.holders[other]] < rank) return false;
        return true;
    }

    double time(int32_t shard, int32_t experts = 0, int32_t pairs = 0) const {
        const int32_t all = r_.pairs[shard] + pairs;
        if (all == 0) return 0.0;
        return c_.call[shard] + c_.expert[shard] * (r_.experts[shard] + experts) + c_.pair[shard] * all;
    }

    // So many pairs more, or fewer, to holder k.
    void give(int32_t k, int32_t pairs) {
        const int32_t before = c_.given[k], shard = c_.holders[k];
        c_.given[k] = before + pairs;
        r_.experts[shard] += (c_.given[k] > 0) - (before > 0);
        r_.pairs[shard] += pairs;
    }

    int32_t slowest(double* limit) const {
        int32_t found = 0;
        *limit = time(0);
        for (int32_t shard = 1; shard < c_.shards; ++shard)
            if (const double taken = time(shard); taken > *limit) *limit = taken, found = shard;
        return found;
    }

    void spread() {
        r_.order = r_.free;
        std::stable_sort(r_.order.begin(), r_.order.end(),
                         [this](int32_t a, int32_t b) { return c_.pairs[a] > c_.pairs[b]; });
        for (const int32_t e : r_.order) {
            int32_t best = kNobody;
            double soonest = 0.0;
            for (int32_t k = c_.starts[e]; k < c_.starts[e + 1]; ++k) {
                if (!may(e, k)) continue;
                const double taken = time(c_.holders[k], 1, c_.pairs[e]);
                if (best == kNobody || taken < soonest) best = k, soonest = taken;
            }
            give(best, c_.pairs[e]);
            r_.at[e] = best;
        }
    }

    void make_room() {
        for (int32_t step = 0; step < 4 * c_.shards; ++step) {
            int32_t start;
            const int32_t end = path(&start);
            if (end == kNobody) return;
            // Backwards: each shard was reached once, so the order of the moves does not matter.
            for (int32_t shard = end; shard != start; shard = r_.came[shard].shard) {
                const int32_t e = r_.came[shard].expert, to = r_.came[shard].to;
                give(r_.at[e], -c_.pairs[e]);
                give(to, c_.pairs[e]);
                r_.at[e] = to;
            }
        }
    }

    // The shard at which a path of moves from the slowest one ends; kNobody if nothing helps.
    int32_t path(int32_t* start) {
        double limit;
        *start = slowest(&limit);
        list_experts();
        r_.came.assign(c_.shards, Came{kNobody, 0, 0});
        r_.queue.assign(1, *start);
        for (size_t head = 0; head < r_.queue.size(); ++head) {
            const int32_t shard = r_.queue[head];
            const int32_t brought = shard == *start ? 0 : c_.pairs[r_.came[shard].expert];
            for (int32_t e = r_.first[shard]; e != kNobody; e = r_.next[e]) {
                if (shard != *start && time(shard, 0, brought - c_.pairs[e]) >= limit) continue;
                for (int32_t to = c_.starts[e]; to < c_.starts[e + 1]; ++to) {
                    const int32_t other = c_.holders[to];
                    if (other == *start || r_.came[other].shard != kNobody || !may(e, to)) continue;
                    r_.came[other] = {shard, e, to};
                    if (time(other, 1, c_.pairs[e]) < limit) return other;
                    r_.queue.push_back(other);
                }
            }
        }
        return kNobody;
    }

    // The free experts at each shard, ascending.
    void list_experts() {
        r_.first.assign(c_.shards, kNobody);
        r_.next.resize(c_.experts);
        for (size_t i = r_.free.size(); i-- > 0;) {
            const int32_t e = r_.free[i], shard = c_.holders[r_.at[e]];
            r_.next[e] = r_.first[shard];
            r_.first[shard] = e;
        }
    }

    void split() {
        for (int32_t step = 0; step < 2 * c_.shards; ++step) {
            double limit;
            const int32_t start = slowest(&limit);
            double best = kWorth * limit;
            int32_t expert = kNobody, from = 0, into = 0, moved = 0;
            for (const int32_t e : r_.free) {
                const int32_t here = holding(e, start);
                if (here == kNobody) continue;
                for (int32_t to = c_.starts[e]; to < c_.starts[e + 1]; ++to) {
                    if (to == here || !may(e, to)) continue;
                    const int32_t pairs = even(here, to, limit);
                    if (pairs == 0) continue;
                    const double after = std::max(time(start, -(c_.given[here] == pairs), -pairs),
                                                  time(c_.holders[to], c_.given[to] == 0, pairs));
                    if (after < best) best = after, expert = e, from = here, into = to, moved = pairs;
                }
            }
            if (expert == kNobody) return;
            give(from, -moved);
            give(into, moved);
        }
    }

    // Where the shard is among the expert's holders, if it has pairs of it.
    int32_t holding(int32_t e, int32_t shard) const {
        for (int32_t k = c_.starts[e]; k < c_.starts[e + 1]; ++k)
            if (c_.holders[k] == shard && c_.given[k] > 0) return k;
        return kNobody;
    }

    int32_t even(int32_t here, int32_t to, double limit) const {
        const int32_t shard = c_.holders[here], other = c_.holders[to];
        const int32_t experts = r_.experts[other] + (c_.given[to] == 0);
        const double taken = c_.call[other] + c_.expert[other] * experts + c_.pair[other] * r_.pairs[other];
        if (!(taken < limit)) return 0;
        const double pairs = (limit - taken) / (c_.pair[shard] + c_.pair[other]);
        return pairs < c_.given[here] ? static_cast<int32_t>(pairs) : c_.given[here];
    }

    void evenly() {
        clear();
        for (const int32_t e : r_.free) {
            int32_t holders = 0;
            for (int32_t k = c_.starts[e]; k < c_.starts[e + 1]; ++k) holders += may(e, k);
            const int32_t share = c_.pairs[e] / holders;
            int32_t more = c_.pairs[e] % holders;
            for (int32_t k = c_.starts[e]; k < c_.starts[e + 1]; ++k)
                if (may(e, k)) give(k, share + (more-- > 0));
        }
    }

    void in_turns() {
        clear();
        for (size_t turn = 0; turn < r_.free.size(); ++turn) {
            const int32_t e = r_.free[turn];
            int32_t holders = 0;
            for (int32_t k = c_.starts[e]; k < c_.starts[e + 1]; ++k) holders += may(e, k);
            int32_t place = static_cast<int32_t>(turn % holders);
            for (int32_t k = c_.starts[e]; k < c_.starts[e + 1]; ++k)
                if (may(e, k) && place-- == 0) give(k, c_.pairs[e]);
        }
    }

    template <typename Change>
    void keep_if_faster(Change change, double worth) {
        double before, after;
        slowest(&before);
        r_.kept.assign(c_.given, c_.given + c_.starts[c_.experts]);
        change();
        slowest(&after);
        if (after < worth * before) return;
        for (const int32_t e : r_.free)
            for (int32_t k = c_.starts[e]; k < c_.starts[e + 1]; ++k) give(k, r_.kept[k] - c_.given[k]);
    }

    void clear() {
        for (const int32_t e : r_.free)
            for (int32_t k = c_.starts[e]; k < c_.starts[e + 1]; ++k) give(k, -c_.given[k]);
    }

    int32_t finish() const {
        int32_t split = 0;
        for (int32_t e = 0; e < c_.experts; ++e) {
            int32_t most = 0, parts = 0;
            c_.shard_of[e] = kNobody;
            for (int32_t k = c_.starts[e]; k < c_.starts[e + 1]; ++k) {
                parts += c_.given[k] > 0;
                if (c_.given[k] > most) most = c_.given[k], c_.shard_of[e] = c_.holders[k];
            }
            split += parts > 1;
        }
        return split;
    }

    const ChooseCall& c_;
    Rooms& r_;
};

bool count(const ChooseCall& call) {
    std::fill_n(call.pairs, call.experts, 0);
    for (int64_t i = 0; i < call.count; ++i) {
        if (call.ids[i] >= call.experts) return false;
        if (call.ids[i] >= 0) ++call.pairs[call.ids[i]];
    }
    return true;
}

}  // namespace

int32_t choose(const ChooseCall& call) {
    static thread_local Rooms rooms;
    if (call.ids != nullptr && !count(call)) return -2;
    try {
        return Search(call, rooms).run();
    } catch (const std::bad_alloc&) {
        return -1;
    }
}

}  // namespace expertmesh
