// The two products of attention for a block of positions: scores = q k, and sums += shares v.
// Included once for each instruction set.
//
// An element's terms are added one after the other, by ascending element of the key and by ascending position, whatever
// rows and columns are computed beside it: so a row's bits depend on nothing but the row.

namespace expertmesh::EM_ISA {

constexpr int kPositions = 64;  // of a block

// Few rows take more columns, so that as many sums are in flight as the registers hold.
constexpr int attention_columns(int rows) { return rows * 4 <= Vec::kRows * Vec::kColumns ? 4 : Vec::kColumns; }

// Keys in float32, [inputs][64].
struct FloatKeys {
    using X = float;
    static constexpr int kInputs = 1;

    template <int ROWS, int COLUMNS>
    static void add(const float* q, const float* keys, F (&sums)[ROWS][COLUMNS]) {
        for (int m = 0; m < ROWS; ++m) {
            const F of_row = Vec::set(q[m]);
            for (int c = 0; c < COLUMNS; ++c) sums[m][c] = Vec::fma(of_row, Vec::load(keys + c * L), sums[m][c]);
        }
    }
};

// Keys in bfloat16, two elements of one key together, [inputs / 2][64][2].
#if defined(__AVX512BF16__)
struct PairKeys {
    using X = uint32_t;
    static constexpr int kInputs = 2;

    template <int ROWS, int COLUMNS>
    static void add(const uint32_t* q, const float* keys, F (&sums)[ROWS][COLUMNS]) {
        __m512i pairs[COLUMNS];
        for (int c = 0; c < COLUMNS; ++c) pairs[c] = Vec::loadi(keys + c * L);
        for (int m = 0; m < ROWS; ++m) {
            const __m512i of_row = _mm512_set1_epi32(static_cast<int32_t>(q[m]));
            for (int c = 0; c < COLUMNS; ++c)
                sums[m][c] = _mm512_dpbf16_ps(sums[m][c], (__m512bh)of_row, (__m512bh)pairs[c]);
        }
    }
};
#else
struct PairKeys {
    using X = uint32_t;
    static constexpr int kInputs = 2;

    template <int ROWS, int COLUMNS>
    static void add(const uint32_t* q, const float* keys, F (&sums)[ROWS][COLUMNS]) {
        const I high = Vec::seti(static_cast<int32_t>(0xffff0000u));
        F even[COLUMNS], odd[COLUMNS];
        for (int c = 0; c < COLUMNS; ++c) {
            const I pair = Vec::loadi(keys + c * L);
            even[c] = Vec::as_float(Vec::template left<16>(pair));
            odd[c] = Vec::as_float(Vec::andi(pair, high));
        }
        for (int m = 0; m < ROWS; ++m) {
            const F first = Vec::set(float_of(q[m] << 16)), second = Vec::set(float_of(q[m] & 0xffff0000u));
            for (int c = 0; c < COLUMNS; ++c) {
                sums[m][c] = Vec::fma(first, even[c], sums[m][c]);
                sums[m][c] = Vec::fma(second, odd[c], sums[m][c]);
            }
        }
    }
};
#endif

// scores[ROWS][64] for COLUMNS vectors of positions; q is [steps][step], the first of these rows at its front.
template <class Keys, int ROWS, int COLUMNS>
void score_tile(const typename Keys::X* q, int64_t step, const float* keys, int64_t steps, float* scores) {
    F sums[ROWS][COLUMNS];
    for (int m = 0; m < ROWS; ++m)
        for (int c = 0; c < COLUMNS; ++c) sums[m][c] = Vec::zero();
    for (int64_t i = 0; i < steps; ++i, q += step, keys += kPositions) Keys::template add<ROWS, COLUMNS>(q, keys, sums);
    for (int m = 0; m < ROWS; ++m)
        for (int c = 0; c < COLUMNS; ++c) Vec::store(scores + m * kPositions + c * L, sums[m][c]);
}

// Values of a block in float32, [64][width].
struct FloatRows {
    const float* values;
    int64_t width;

    F load(int i, int64_t column) const { return Vec::load(values + i * width + column); }
};

// Values in bfloat16 where they lie in the cache.
struct BfloatRows {
    const uint16_t* values;
    const int64_t* places;  // [64]

    F load(int i, int64_t column) const { return load_as(Dtype::BF16, values, places[i] + column); }
};

// sums[ROWS][width] += shares[ROWS][64] values for COLUMNS vectors from `column` on, and positions `from` to `to`.
template <class Values, int ROWS, int COLUMNS>
void value_tile(const float* shares, Values values, int64_t column, int64_t width, int from, int to, float* out) {
    F sums[ROWS][COLUMNS];
    for (int m = 0; m < ROWS; ++m)
        for (int c = 0; c < COLUMNS; ++c) sums[m][c] = Vec::load(out + m * width + column + c * L);
    for (int i = from; i < to; ++i) {
        F row[COLUMNS];
        for (int c = 0; c < COLUMNS; ++c) row[c] = values.load(i, column + c * L);
        for (int m = 0; m < ROWS; ++m) {
            const F share = Vec::set(shares[m * kPositions + i]);
            for (int c = 0; c < COLUMNS; ++c) sums[m][c] = Vec::fma(share, row[c], sums[m][c]);
        }
    }
    for (int m = 0; m < ROWS; ++m)
        for (int c = 0; c < COLUMNS; ++c) Vec::store(out + m * width + column + c * L, sums[m][c]);
}

// The queries of a tile of rows, and where their scores go.
template <class X>
struct TileOfRows {
    const X* q;       // [steps][step]
    int64_t step;
    int64_t steps;
    float* scores;    // [rows][64], shares later
};

// Vectors `from` to `to` of the positions' scores.
template <class Keys, int ROWS>
void score_rows(const TileOfRows<typename Keys::X>& tile, const float* keys, int from, int to) {
    constexpr int wide = attention_columns(ROWS);
    int c = from;
    for (; c + wide <= to; c += wide)
        score_tile<Keys, ROWS, wide>(tile.q, tile.step, keys + c * L, tile.steps, tile.scores + c * L);
    for (; c < to; ++c) score_tile<Keys, ROWS, 1>(tile.q, tile.step, keys + c * L, tile.steps, tile.scores + c * L);
}

template <class Values, int ROWS>
void value_rows(const float* shares, Values values, int64_t width, int from, int to, float* sums) {
    constexpr int wide = attention_columns(ROWS);
    int64_t at = 0;
    for (; at + wide * L <= width; at += wide * L) value_tile<Values, ROWS, wide>(shares, values, at, width, from, to, sums);
    for (; at < width; at += L) value_tile<Values, ROWS, 1>(shares, values, at, width, from, to, sums);
}

// The same for a number of rows known at run time, at most Vec::kRows.
template <class Keys, int ROWS = Vec::kRows>
void score_rows_of(int rows, const TileOfRows<typename Keys::X>& tile, const float* keys, int from, int to) {
    if (rows == ROWS) {
        score_rows<Keys, ROWS>(tile, keys, from, to);
        return;
    }
    if constexpr (ROWS > 1) score_rows_of<Keys, ROWS - 1>(rows, tile, keys, from, to);
}

template <class Values, int ROWS = Vec::kRows>
void value_rows_of(int rows, const float* shares, Values values, int64_t width, int from, int to, float* sums) {
    if (rows == ROWS) {
        value_rows<Values, ROWS>(shares, values, width, from, to, sums);
        return;
    }
    if constexpr (ROWS > 1) value_rows_of<Values, ROWS - 1>(rows, shares, values, width, from, to, sums);
}

}  // namespace expertmesh::EM_ISA
