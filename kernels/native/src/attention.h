// Attention of rows over a paged cache, softmax in blocks of 64 positions (Milakov and Gimelshein 2018, arXiv 1805.02867;
// Dao et al. 2022, arXiv 2205.14135). Included once for each instruction set.
//
// A unit is a tile of rows of one segment: some tokens times some of the heads that share a key-value head. Blocks begin
// at multiples of 64 of the absolute position, and a row passes over what it does not see. So its bits follow from its
// own keys and position: the same in any tile, chunk or batch, on any number of threads.

namespace expertmesh::EM_ISA {

constexpr int64_t kMostTileRows = 8 * Vec::kRows;
constexpr float kLowest = -__builtin_inff();

// One tile of rows on its way over the blocks. Row t * heads + h is head h of token t.
template <class Keys>
struct AttentionTile {
    using X = typename Keys::X;

    const AttentionCall& call;
    int64_t segment;
    int64_t first_row;   // of the call, of the first token
    int64_t tokens;
    int64_t first_head;
    int64_t heads;
    int64_t kv_head;
    X* q;            // [steps][rows]
    float* scores;   // [rows][64]
    float* sums;     // [rows][width]
    float* highest;  // [rows]
    float* totals;   // [rows]
    float* keys;     // [steps][64]
    float* values;   // [64][width]

    Dtype dtype() const { return static_cast<Dtype>(call.dtype); }
    int64_t rows() const { return tokens * heads; }
    int64_t steps() const { return (call.key_size + Keys::kInputs - 1) / Keys::kInputs; }
    int64_t width() const { return round_up(call.value_size, kPanel); }
    int64_t segment_slots() const { return call.slot_start[segment + 1] - call.slot_start[segment]; }

    // Where a token of the tile stands, and behind it.
    int64_t position(int64_t token) const {
        const int64_t behind = call.row_start[segment + 1] - (first_row + token);
        return call.since[segment] + segment_slots() - behind;
    }

    void run() {
        const int64_t begin = call.first[first_row], end = position(tokens - 1) + 1;
        ask_for(begin, (begin / kPositions + 1) * kPositions < end ? (begin / kPositions + 1) * kPositions : end);
        start();
        for (int64_t block = begin / kPositions * kPositions; block < end; block += kPositions) {
            const int from = static_cast<int>(begin > block ? begin - block : 0);
            const int to = static_cast<int>(end - block < kPositions ? end - block : kPositions);
            ask_for(block + kPositions, block + 2 * kPositions < end ? block + 2 * kPositions : end);
            pack_keys(block, from, to);
            pack_values(block, from, to);
            attend(block, from, to);
        }
        for (int64_t row = 0; row < rows(); ++row) write(row);
    }

    // Queries as the products read them; a sink is one more logit, without a value.
    void start() {
        float* floats = scores;  // there is room for one row of queries more
        for (int64_t row = 0; row < rows(); ++row) {
            const int64_t token = first_row + row / heads, head = first_head + row % heads;
            read_elements(call.q, token * call.q_row + head * call.q_head, call.key_size, floats);
            for (int64_t i = 0; i < steps(); ++i) q[i * rows() + row] = query(floats, i);
            highest[row] = call.sinks != nullptr ? call.sinks[head] : kLowest;
            totals[row] = call.sinks != nullptr ? 1.0f : 0.0f;
        }
        __builtin_memset(sums, 0, rows() * width() * sizeof(float));
    }

    static X query(const float* floats, int64_t step) {
        if constexpr (Keys::kInputs == 1) return floats[step];
        else return bits_of(floats[2 * step]) >> 16 | (bits_of(floats[2 * step + 1]) & 0xffff0000u);
    }

    // In float32, with zeros behind them up to whole vectors of pairs.
    void read_elements(const void* base, int64_t at, int64_t size, float* out) const {
        int64_t i = 0;
        for (; i + L <= size; i += L) Vec::store(out + i, load_as(dtype(), base, at + i));
        Vec::store(out + i, i < size ? load_some(dtype(), base, at + i, static_cast<int>(size - i)) : Vec::zero());
    }

    int64_t slot(int64_t position) const { return call.slots[call.slot_start[segment] + position - call.since[segment]]; }
    int64_t key_at(int64_t position) const { return slot(position) * call.key_slot + kv_head * call.key_head; }
    int64_t value_at(int64_t position) const { return slot(position) * call.value_slot + kv_head * call.value_head; }

    // Positions lie apart in the cache, where the CPU does not foresee them.
    void ask_for(int64_t begin, int64_t end) const {
        const int64_t size = size_of(dtype());
        for (int64_t position = begin; position < end; ++position) {
            const uint8_t* key = static_cast<const uint8_t*>(call.keys) + key_at(position) * size;
            for (int64_t i = 0; i < call.key_size * size; i += 64) __builtin_prefetch(key + i, 0, 2);
            if (call.values == call.keys) continue;
            const uint8_t* value = static_cast<const uint8_t*>(call.values) + value_at(position) * size;
            for (int64_t i = 0; i < call.value_size * size; i += 64) __builtin_prefetch(value + i, 0, 2);
        }
    }

    // Keys of a block side by side, zeros for those that no row sees.
    void pack_keys(int64_t block, int from, int to) {
        const int64_t all = steps();
        for (int lane = from / L * L; lane < to; lane += L) {
            for (int64_t i = 0; i < all; i += L) {
                I row[L];
                for (int j = 0; j < L; ++j) {
                    const bool seen = lane + j >= from && lane + j < to;
                    row[j] = seen ? key_elements(key_at(block + lane + j), i) : Vec::seti(0);
                }
                Vec::transpose(row);
                for (int j = 0; j < L && i + j < all; ++j)
                    Vec::store(keys + (i + j) * kPositions + lane, Vec::as_float(row[j]));
            }
        }
    }

    // L elements of a key, or pairs of them, from element or pair `step` on.
    I key_elements(int64_t at, int64_t step) const {
        const int64_t begin = step * Keys::kInputs, left = call.key_size - begin;
        if constexpr (Keys::kInputs == 1) {
            if (left >= L) return Vec::as_int(load_as(dtype(), call.keys, at + begin));
            return Vec::as_int(load_some(dtype(), call.keys, at + begin, static_cast<int>(left)));
        } else {
            const uint16_t* words = static_cast<const uint16_t*>(call.keys) + at + begin;
            if (left >= 2 * L) return Vec::loadi(words);
            uint16_t buffer[2 * L] = {};
            __builtin_memcpy(buffer, words, left * sizeof(uint16_t));
            return Vec::loadi(buffer);
        }
    }

    void pack_values(int64_t block, int from, int to) {
        for (int i = from; i < to; ++i) {
            float* out = values + i * width();
            const int64_t at = value_at(block + i);
            int64_t c = 0;
            for (; c + L <= call.value_size; c += L) Vec::store(out + c, load_as(dtype(), call.values, at + c));
            if (c < call.value_size) {
                Vec::store(out + c, load_some(dtype(), call.values, at + c, static_cast<int>(call.value_size - c)));
                c += L;
            }
            for (; c < width(); c += L) Vec::store(out + c, Vec::zero());
        }
    }

    // All rows together where they see the same of the block, else token by token: what a row does not see must not
    // reach it even times zero, as it may be no number.
    void attend(int64_t block, int from, int to) {
        if (call.first[first_row + tokens - 1] <= block + from && position(0) + 1 >= block + to) {
            attend_rows(0, rows(), from, to);
            return;
        }
        for (int64_t token = 0; token < tokens; ++token) {
            const int64_t first = call.first[first_row + token] - block, last = position(token) + 1 - block;
            const int begin = static_cast<int>(first > from ? first : from), end = static_cast<int>(last < to ? last : to);
            if (begin < end) attend_rows(token * heads, heads, begin, end);
        }
    }

    void attend_rows(int64_t first, int64_t count, int from, int to) {
        for (int64_t row = first; row < first + count; row += Vec::kRows) {
            const int64_t left = first + count - row;
            const int some = static_cast<int>(left < Vec::kRows ? left : Vec::kRows);
            const TileOfRows<X> tile{q + row, rows(), steps(), scores + row * kPositions};
            score_rows_of<Keys>(some, tile, keys, from / L, (to + L - 1) / L);
            for (int m = 0; m < some; ++m) soften(row + m, from, to);
            value_rows_of(some, tile.scores, values, width(), from, to, sums + row * width());
        }
    }

    // A row's scores become shares of the highest so far; what it has summed up shrinks where there is a higher one.
    void soften(int64_t row, int from, int to) {
        float* at = scores + row * kPositions;
        const int begin = from / L * L, end = (to + L - 1) / L * L;
        const F scale = Vec::set(call.scale);
        for (int i = begin; i < end; i += L) Vec::store(at + i, Vec::mul(Vec::load(at + i), scale));
        for (int i = begin; i < from; ++i) at[i] = kLowest;
        for (int i = to; i < end; ++i) at[i] = kLowest;
        F high = Vec::set(highest[row]);
        for (int i = begin; i < end; i += L) high = Vec::max(high, Vec::load(at + i));
        const float top = Vec::highest(high);
        const F shift = Vec::set(top);
        F total = Vec::zero();
        for (int i = begin; i < end; i += L) {
            const F share = exp(Vec::sub(Vec::load(at + i), shift));
            Vec::store(at + i, share);
            total = Vec::add(total, share);
        }
        if (top != highest[row]) shrink(row, exp(Vec::sub(Vec::set(highest[row]), shift)));
        highest[row] = top;
        totals[row] += Vec::sum(total);
    }

    void shrink(int64_t row, F by) {
        float lanes[L];
        Vec::store(lanes, by);
        totals[row] *= lanes[0];
        float* out = sums + row * width();
        for (int64_t c = 0; c < width(); c += L) Vec::store(out + c, Vec::mul(Vec::load(out + c), by));
    }

    void write(int64_t row) {
        const int64_t token = first_row + row / heads, head = first_head + row % heads;
        const int64_t at = (token * call.heads + head) * call.value_size;
        const float* from = sums + row * width();
        const F total = Vec::set(totals[row]);
        for (int64_t c = 0; c < call.value_size; c += L) {
            const F value = Vec::div(Vec::load(from + c), total);
            if (call.value_size - c >= L) store_as(dtype(), call.out, at + c, value);
            else store_some(dtype(), call.out, at + c, value, static_cast<int>(call.value_size - c));
        }
    }
};

template <class Keys>
struct AttentionJob {
    const AttentionCall& call;
    int64_t heads_of_tile;
    int64_t tokens_of_tile;
    int64_t* unit_start;  // [segments + 1]
    int32_t no_memory;

    int64_t group() const { return call.heads / call.kv_heads; }
    int64_t parts() const { return (group() + heads_of_tile - 1) / heads_of_tile; }

    int64_t token_tiles(int64_t segment) const {
        return (call.row_start[segment + 1] - call.row_start[segment] + tokens_of_tile - 1) / tokens_of_tile;
    }

    // Tiles of at most so many rows. How rows are cut does not change their bits.
    int64_t cut(int64_t most_rows) {
        heads_of_tile = group() < most_rows ? group() : most_rows;
        tokens_of_tile = most_rows / heads_of_tile;
        unit_start[0] = 0;
        for (int64_t s = 0; s < call.segments; ++s) unit_start[s + 1] = unit_start[s] + token_tiles(s) * call.kv_heads * parts();
        return unit_start[call.segments];
    }

    int64_t segment_of(int64_t unit) const {
        int64_t low = 0, high = call.segments - 1;
        while (low < high) {
            const int64_t middle = (low + high + 1) / 2;
            if (unit_start[middle] <= unit) low = middle;
            else high = middle - 1;
        }
        return low;
    }

    void run(int64_t unit) {
        const int64_t segment = segment_of(unit), tiles = token_tiles(segment);
        const int64_t place = (unit - unit_start[segment]) / tiles, number = (unit - unit_start[segment]) % tiles;
        const int64_t kv_head = place / parts(), part = place % parts();
        const int64_t begin = number * tokens_of_tile, rows = call.row_start[segment + 1] - call.row_start[segment];
        const int64_t first_head = part * heads_of_tile, more = group() - first_head;
        AttentionTile<Keys> tile{call, segment, call.row_start[segment] + begin,
                                 rows - begin < tokens_of_tile ? rows - begin : tokens_of_tile,
                                 kv_head * group() + first_head, more < heads_of_tile ? more : heads_of_tile, kv_head,
                                 nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};
        if (take(tile)) tile.run();
        else __atomic_store_n(&no_memory, 1, __ATOMIC_RELAXED);
    }

    static bool take(AttentionTile<Keys>& tile) {
        const int64_t rows = tile.rows(), steps = round_up(tile.steps(), L), width = tile.width();
        const int64_t scores = rows * kPositions + round_up(tile.call.key_size + L, L);  // see `start`
        float* of_rows = static_cast<float*>(scratch(Purpose::SCORES, (scores + rows * (width + 2)) * sizeof(float)));
        tile.q = static_cast<typename Keys::X*>(scratch(Purpose::QUERIES, rows * steps * sizeof(typename Keys::X)));
        tile.keys = static_cast<float*>(scratch(Purpose::KEYS, steps * kPositions * sizeof(float)));
        tile.values = static_cast<float*>(scratch(Purpose::VALUES, width * kPositions * sizeof(float)));
        if (of_rows == nullptr || tile.q == nullptr || tile.keys == nullptr || tile.values == nullptr) return false;
        tile.scores = of_rows;
        tile.sums = of_rows + scores;
        tile.highest = tile.sums + rows * width;
        tile.totals = tile.highest + rows;
        return true;
    }
};

template <class Keys>
Status run_attention(const AttentionCall& call) {
    using Job = AttentionJob<Keys>;
    auto* starts = static_cast<int64_t*>(scratch(Purpose::ORDER, (call.segments + 1) * sizeof(int64_t)));
    if (starts == nullptr) return Status::NO_MEMORY;
    Job job{call, 0, 0, starts, 0};
    int64_t most = kMostTileRows, units = job.cut(most);
    while (units < 4 * call.threads && most > Vec::kRows && call.threads > 1) units = job.cut(most /= 2);
    const Phase phase{units, [](void* job, int64_t unit) { static_cast<Job*>(job)->run(unit); }};
    run_phases(call.threads, &phase, 1, &job);
    return job.no_memory ? Status::NO_MEMORY : Status::OK;
}

inline Status attention(const AttentionCall& call) {
    if (static_cast<Dtype>(call.dtype) == Dtype::BF16) return run_attention<PairKeys>(call);
    return run_attention<FloatKeys>(call);
}

}  // namespace expertmesh::EM_ISA
