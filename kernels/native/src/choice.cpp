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
    // Of a division.
    std::vector<uint64_t> asked;
    std::vector<int32_t> at_place, left, place_of, row_of;
    std::vector<uint8_t> wanted;
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

class Division {
   public:
    Division(DivideCall& call, Rooms& rooms) : d_(call), c_(*call.choice), r_(rooms) {}

    void run() {
        order_places();
        put_pairs();
        for (int32_t first = 0, run = 0; first < d_.part_count; ++run) first = finish_run(first, run);
    }

   private:
    int32_t shard(int32_t part) const { return d_.parts[3 * part]; }
    int32_t end(int32_t part) const { return part < 0 ? 0 : d_.parts[3 * part + 2]; }

    // Sort what each holder is asked for, and note where it begins.
    void order_places() {
        r_.asked.clear();
        r_.place_of.assign(c_.starts[c_.experts], 0);
        for (int32_t e = 0; e < c_.experts; ++e)
            for (int32_t k = c_.starts[e]; k < c_.starts[e + 1]; ++k) {
                r_.place_of[k] = e;
                // Places ascend with experts, so those of one part stay in order.
                if (c_.given[k] > 0) r_.asked.push_back(code(e, k) << 32 | static_cast<uint32_t>(k));
            }
        std::sort(r_.asked.begin(), r_.asked.end());
        r_.at_place.assign(c_.starts[c_.experts], 0);
        d_.part_count = d_.run_count = 0;
        int32_t at = 0;
        for (const uint64_t one : r_.asked) {
            const int32_t k = static_cast<int32_t>(one & 0xffffffffu);
            open_part(c_.holders[k], d_.blocks[r_.place_of[k]]);
            r_.at_place[k] = at;
            at += c_.given[k];
            d_.parts[3 * (d_.part_count - 1) + 2] = at;
        }
    }

    uint64_t code(int32_t e, int32_t k) const {
        return static_cast<uint64_t>(c_.holders[k]) * c_.experts + d_.blocks[e];
    }

    void open_part(int32_t shard, int32_t block) {
        const int32_t* last = d_.parts + 3 * (d_.part_count - 1);
        if (d_.part_count > 0 && last[0] == shard && last[1] == block) return;
        d_.parts[3 * d_.part_count] = shard;
        d_.parts[3 * d_.part_count + 1] = block;
        ++d_.part_count;
    }

    // An expert's pairs fill its holders one after the other.
    void put_pairs() {
        r_.at.assign(c_.starts, c_.starts + c_.experts);
        r_.left.assign(c_.given, c_.given + c_.starts[c_.experts]);
        for (int64_t i = 0; i < c_.count; ++i) {
            const int64_t e = c_.ids[i];
            if (e < 0) {
                d_.places[i] = 0;
                continue;
            }
            int32_t& k = r_.at[e];
            while (r_.left[k] == 0) ++k;
            --r_.left[k];
            const int32_t at = r_.at_place[k]++;
            d_.places[i] = at + 1;
            d_.order[at] = i;
            d_.experts[at] = static_cast<int32_t>(e);
            d_.sorted[at] = d_.weights[i];
        }
    }

    // The rows of the run that begins with part `first`; returns the part behind it.
    int32_t finish_run(int32_t first, int32_t run) {
        int32_t last = first;
        while (last + 1 < d_.part_count && shard(last + 1) == shard(first)) ++last;
        const int32_t begin = end(first - 1), stop = end(last), total = static_cast<int32_t>(c_.count / d_.width);
        int32_t rows = run == 0 ? 0 : d_.runs[3 * (run - 1)], experts = 0;
        const int32_t before = rows;
        r_.wanted.assign(total, 0);
        r_.row_of.resize(total);
        for (int32_t at = begin; at < stop; ++at) {
            r_.wanted[d_.order[at] / d_.width] = 1;
            experts += at == begin || d_.experts[at] != d_.experts[at - 1];
        }
        for (int32_t token = 0; token < total; ++token)
            if (r_.wanted[token]) r_.row_of[token] = rows - before, d_.tokens[rows++] = token;
        for (int32_t at = begin; at < stop; ++at) d_.rows[at] = r_.row_of[d_.order[at] / d_.width];
        d_.runs[3 * run] = rows;
        d_.runs[3 * run + 1] = experts;
        d_.runs[3 * run + 2] = last + 1;
        d_.run_count = run + 1;
        return last + 1;
    }

    DivideCall& d_;
    const ChooseCall& c_;
    Rooms& r_;
};

Rooms& rooms() {
    static thread_local Rooms kept;
    return kept;
}

}  // namespace

int32_t choose(const ChooseCall& call) {
    if (call.ids != nullptr && !count(call)) return -2;
    try {
        return Search(call, rooms()).run();
    } catch (const std::bad_alloc&) {
        return -1;
    }
}

int32_t divide(DivideCall& call) {
    const int32_t split = choose(*call.choice);
    if (split < 0) return split;
    try {
        Division(call, rooms()).run();
    } catch (const std::bad_alloc&) {
        return -1;
    }
    return split;
}

}  // namespace expertmesh
