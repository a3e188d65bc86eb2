// Attention of rows over a paged cache, softmax in blocks of 64 positions (Milakov and Gimelshein 2018, arXiv 1805.02867;
// Dao et al. 2022, arXiv 2205.14135). Included once for each instruction set.
//
// A tile has rows of one segment: some tokens times some of the heads that share a key-value head. Blocks begin
// at multiples of 64 of the absolute position, and a row passes over what it does not see. So its bits follow from its
// own keys and position: the same in any tile, chunk or batch, on any number of threads.

namespace expertmesh::EM_ISA {

constexpr float kLowest = -__builtin_inff();

// A tile of rows on its way over the blocks. Row t * heads + h of key-value head j is head h of j's heads, of token t.
template <class Keys>
struct AttentionTile {
    using X = typename Keys::X;

    const AttentionCall& call;
    int64_t segment;
    int64_t first_row;      // of the call, of the first token
    int64_t tokens;
    int64_t first_kv_head;
    int64_t kv_heads;
    int64_t first_head;     // among those that share a key-value head
    int64_t heads;
    X* q;             // [kv_heads][steps][rows]
    float* scores;    // [rows][64]
    float* sums;      // [kv_heads][rows][width]
    float* highest;   // [kv_heads][rows]
    float* totals;    // [kv_heads][rows]
    float* keys;      // [steps][64]
    float* values;    // [64][width]

    Dtype dtype() const { return static_cast<Dtype>(call.dtype); }
    int64_t rows() const { return tokens * heads; }
    int64_t steps() const { return (call.key_size + Keys::kInputs - 1) / Keys::kInputs; }
    int64_t width() const { return round_up(call.value_size, kPanel); }
    int64_t segment_slots() const { return call.slot_start[segment + 1] - call.slot_start[segment]; }

    // Where a token of the tile stands.
    int64_t position(int64_t token) const {
        const int64_t behind = call.row_start[segment + 1] - (first_row + token);
        return call.since[segment] + segment_slots() - behind;
    }

    int64_t head_of(int64_t row, int64_t kv_head) const {
        return (first_kv_head + kv_head) * (call.heads / call.kv_heads) + first_head + row % heads;
    }

    void run() {
        const int64_t begin = call.first[first_row], end = position(tokens - 1) + 1;
        const int64_t first_block = begin / kPositions * kPositions;
        ask_for(begin, first_block + kPositions < end ? first_block + kPositions : end);
        start();
        for (int64_t block = first_block; block < end; block += kPositions) {
            const int from = static_cast<int>(begin > block ? begin - block : 0);
            const int to = static_cast<int>(end - block < kPositions ? end - block : kPositions);
            const int64_t next = block + kPositions, left = end > next ? end - next : 0;
            const int64_t asked = left < kPositions ? left : kPositions;
            for (int64_t j = 0; j < kv_heads; ++j) {
                ask_for(next + asked * j / kv_heads, next + asked * (j + 1) / kv_heads);
                attend(block, from, to, j);
            }
        }
        for (int64_t j = 0; j < kv_heads; ++j)
            for (int64_t row = 0; row < rows(); ++row) write(row, j);
    }

    // Queries as the products read them; a sink is one more logit, without a value.
    void start() {
        float* floats = scores;  // there is room for one row of queries more
        for (int64_t j = 0; j < kv_heads; ++j) {
            for (int64_t row = 0; row < rows(); ++row) {
                const int64_t token = first_row + row / heads, head = head_of(row, j), place = j * rows() + row;
                read_elements(call.q, token * call.q_row + head * call.q_head, call.key_size, floats);
                for (int64_t i = 0; i < steps(); ++i) q[(j * steps() + i) * rows() + row] = query(floats, i);
                highest[place] = call.sinks != nullptr ? call.sinks[head] : kLowest;
                totals[place] = call.sinks != nullptr ? 1.0f : 0.0f;
            }
        }
        __builtin_memset(sums, 0, kv_heads * rows() * width() * sizeof(float));
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
    int64_t key_at(int64_t position, int64_t j) const {
        return slot(position) * call.key_slot + (first_kv_head + j) * call.key_head;
    }
    int64_t value_at(int64_t position, int64_t j) const {
        return slot(position) * call.value_slot + (first_kv_head + j) * call.value_head;
    }

    // Positions lie apart in the cache, where the CPU does not foresee them: so all of a position's heads are asked for
    // together. Inlined, because gcc takes a call that does nothing but prefetch for one without effects, and drops it.
    __attribute__((always_inline)) void ask_for(int64_t begin, int64_t end) const {
        const int64_t size = size_of(dtype());
        const int64_t key_bytes = ((kv_heads - 1) * call.key_head + call.key_size) * size;
        const int64_t value_bytes = ((kv_heads - 1) * call.value_head + call.value_size) * size;
        for (int64_t position = begin; position < end; ++position) {
            const uint8_t* key = static_cast<const uint8_t*>(call.keys) + key_at(position, 0) * size;
            for (int64_t i = 0; i < key_bytes; i += 64) __builtin_prefetch(key + i, 0, 2);
            if (call.values == call.keys) continue;
            const uint8_t* value = static_cast<const uint8_t*>(call.values) + value_at(position, 0) * size;
            for (int64_t i = 0; i < value_bytes; i += 64) __builtin_prefetch(value + i, 0, 2);
        }
    }

    // Keys of a block side by side, zeros for those that no row sees.
    void pack_keys(int64_t block, int from, int to, int64_t j) {
        const int64_t all = steps();
        for (int lane = from / L * L; lane < to; lane += L) {
            int64_t at[L];
            for (int i = 0; i < L; ++i) at[i] = lane + i >= from && lane + i < to ? key_at(block + lane + i, j) : -1;
            const bool seen = lane >= from && lane + L <= to;
            for (int64_t step = 0; step < all; step += L) {
                I row[L];
                if (seen && (step + L) * Keys::kInputs <= call.key_size) {
                    for (int i = 0; i < L; ++i) row[i] = whole_elements(at[i] + step * Keys::kInputs);
                } else {
                    for (int i = 0; i < L; ++i) row[i] = at[i] < 0 ? Vec::seti(0) : key_elements(at[i], step);
                }
                Vec::transpose(row);
                float* out = keys + step * kPositions + lane;
                for (int i = 0; i < L; ++i) Vec::store(out + i * kPositions, Vec::as_float(row[i]));
            }
        }
    }

    // L elements of a key, or pairs of them, from element or pair `step` on.
    I key_elements(int64_t at, int64_t step) const {
        const int64_t begin = step * Keys::kInputs, left = call.key_size - begin;
        if (left >= L * Keys::kInputs) return whole_elements(at + begin);
        if constexpr (Keys::kInputs == 1) {
            return Vec::as_int(load_some(dtype(), call.keys, at + begin, static_cast<int>(left)));
        } else {
            const uint16_t* words = static_cast<const uint16_t*>(call.keys) + at + begin;
            uint16_t buffer[2 * L] = {};
            __builtin_memcpy(buffer, words, left * sizeof(uint16_t));
            return Vec::loadi(buffer);
        }
    }

    I whole_elements(int64_t at) const {
        if constexpr (Keys::kInputs == 1) return Vec::as_int(load_as(dtype(), call.keys, at));
        else return Vec::loadi(static_cast<const uint16_t*>(call.keys) + at);
    }

    void pack_values(int64_t block, int from, int to, int64_t j) {
        for (int i = from; i < to; ++i) {
            float* out = values + i * width();
            const int64_t at = value_at(block + i, j);
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
    void attend(int64_t block, int from, int to, int64_t j) {
        pack_keys(block, from, to, j);
        const bool direct = rows() <= Vec::kRows && width() == call.value_size;
        const BfloatRows in_place{static_cast<const uint16_t*>(call.values), value_places};
        if (dtype() == Dtype::BF16 && direct) {
            for (int i = from; i < to; ++i) value_places[i] = value_at(block + i, j);
            attend_tokens(block, from, to, j, in_place);
        } else {
            pack_values(block, from, to, j);
            attend_tokens(block, from, to, j, FloatRows{values, width()});
        }
    }

    template <class Values>
    void attend_tokens(int64_t block, int from, int to, int64_t j, Values of_block) {
        if (call.first[first_row + tokens - 1] <= block + from && position(0) + 1 >= block + to) {
            attend_rows(0, rows(), from, to, j, of_block);
            return;
        }
        for (int64_t token = 0; token < tokens; ++token) {
            const int64_t first = call.first[first_row + token] - block, last = position(token) + 1 - block;
            const int begin = static_cast<int>(first > from ? first : from), end = static_cast<int>(last < to ? last : to);
            if (begin < end) attend_rows(token * heads, heads, begin, end, j, of_block);
        }
    }

    template <class Values>
    void attend_rows(int64_t first, int64_t count, int from, int to, int64_t j, Values of_block) {
        const X* queries = q + j * steps() * rows();
        for (int64_t row = first; row < first + count; row += Vec::kRows) {
            const int64_t left = first + count - row;
            const int some = static_cast<int>(left < Vec::kRows ? left : Vec::kRows);
            const TileOfRows<X> tile{queries + row, rows(), steps(), scores + row * kPositions};
            score_rows_of<Keys>(some, tile, keys, from / L, (to + L - 1) / L);
            for (int m = 0; m < some; ++m) soften(tile.scores + m * kPositions, j * rows() + row + m, from, to);
            value_rows_of(some, tile.scores, of_block, width(), from, to, sums + (j * rows() + row) * width());
        }
    }

    // A row's scores become shares of the highest so far; what it has summed up shrinks where there is a higher one.
    void soften(float* at, int64_t place, int from, int to) {
        const int begin = from / L * L, end = (to + L - 1) / L * L;
        F scale = Vec::set(call.scale), high = Vec::set(highest[place]), total = Vec::zero();
        if (from > begin || to < end) {
            for (int i = begin; i < end; i += L) Vec::store(at + i, Vec::mul(Vec::load(at + i), scale));
            scale = Vec::set(1.0f);
            for (int i = begin; i < from; ++i) at[i] = kLowest;
            for (int i = to; i < end; ++i) at[i] = kLowest;
        }
        for (int i = begin; i < end; i += L) high = Vec::max(high, Vec::mul(Vec::load(at + i), scale));
        const float top = Vec::highest(high);
        const F shift = Vec::set(top);
        for (int i = begin; i < end; i += L) {
            const F share = exp(Vec::sub(Vec::mul(Vec::load(at + i), scale), shift));
            Vec::store(at + i, share);
            total = Vec::add(total, share);
        }
        if (top != highest[place]) shrink(place, exp(Vec::sub(Vec::set(highest[place]), shift)));
        highest[place] = top;
        totals[place] += Vec::sum(total);
    }

    void shrink(int64_t place, F by) {
        float lanes[L];
        Vec::store(lanes, by);
        totals[place] *= lanes[0];
        float* out = sums + place * width();
        for (int64_t c = 0; c < width(); c += L) Vec::store(out + c, Vec::mul(Vec::load(out + c), by));
    }

    void write(int64_t row, int64_t j) {
        const int64_t token = first_row + row / heads, place = j * rows() + row;
        const int64_t at = (token * call.heads + head_of(row, j)) * call.value_size;
        const float* from = sums + place * width();
        const F total = Vec::set(totals[place]);
        for (int64_t c = 0; c < call.value_size; c += L) {
            const F value = Vec::div(Vec::load(from + c), total);
            if (call.value_size - c >= L) store_as(dtype(), call.out, at + c, value);
            else store_some(dtype(), call.out, at + c, value, static_cast<int>(call.value_size - c));
        }
    }

    // Memory that the thread keeps; false where there is none.
    bool take() {
        const int64_t all = kv_heads * rows(), padded = round_up(steps(), L);
        const int64_t of_scores = rows() * kPositions + round_up(call.key_size + L, L);  // see `start`
        const size_t floats = of_scores + all * (width() + 2);
        scores = static_cast<float*>(scratch(Purpose::SCORES, floats * sizeof(float)));
        q = static_cast<X*>(scratch(Purpose::QUERIES, all * padded * sizeof(X)));
        keys = static_cast<float*>(scratch(Purpose::KEYS, padded * kPositions * sizeof(float)));
        values = static_cast<float*>(scratch(Purpose::VALUES, width() * kPositions * sizeof(float)));
        if (scores == nullptr || q == nullptr || keys == nullptr || values == nullptr) return false;
        sums = scores + of_scores;
        highest = sums + all * width();
        totals = highest + all;
        return true;
    }

    int64_t value_places[kPositions];
};

}  // namespace expertmesh::EM_ISA
