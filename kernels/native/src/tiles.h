// The innermost loops: a few rows of x times one panel, acc[row][32] += x w, inputs added one after the other.
//
// The order of additions of an output is that of the inputs, whatever the number of rows beside it. That is why a row's
// bits do not depend on the batch. Included once for each instruction set.

namespace expertmesh::EM_ISA {

// How far ahead weights are asked for, where few rows make memory the limit. Measured: tests/benchmarks/README.md.
constexpr int64_t kAhead = 4096;
constexpr int kPrefetchedRows = 4;

// Vectors of a tile: all 32 outputs at once where the registers hold them.
constexpr int columns_of(int rows) { return rows * (kPanel / L) <= Vec::kRows * Vec::kColumns ? kPanel / L : Vec::kColumns; }

template <int ROWS, int COLUMNS>
struct Accumulators {
    F v[ROWS][COLUMNS];

    void load(const float* acc) {
        for (int m = 0; m < ROWS; ++m)
            for (int c = 0; c < COLUMNS; ++c) v[m][c] = Vec::load(acc + m * kPanel + c * L);
    }

    void store(float* acc) const {
        for (int m = 0; m < ROWS; ++m)
            for (int c = 0; c < COLUMNS; ++c) Vec::store(acc + m * kPanel + c * L, v[m][c]);
    }

    void add(const float* x, const F (&w)[COLUMNS]) {
        for (int m = 0; m < ROWS; ++m) {
            const F of_row = Vec::set(x[m]);
            for (int c = 0; c < COLUMNS; ++c) v[m][c] = Vec::fma(of_row, w[c], v[m][c]);
        }
    }
};

// Weights in float32, [inputs][32]; x [inputs][ROWS] in float32.
struct FloatWeights {
    using X = float;
    using W = float;
    static constexpr int kInputs = 1;  // of a step

    template <int ROWS, int COLUMNS>
    static void run(const float* x, const float* w, int64_t inputs, float* acc) {
        Accumulators<ROWS, COLUMNS> sums;
        sums.load(acc);
        for (int64_t i = 0; i < inputs; ++i, x += ROWS, w += kPanel) {
            if (ROWS <= kPrefetchedRows) Vec::prefetch(reinterpret_cast<const uint8_t*>(w) + kAhead);
            if (ROWS <= kPrefetchedRows && COLUMNS * L > 16) Vec::prefetch(reinterpret_cast<const uint8_t*>(w) + kAhead + 64);
            F weights[COLUMNS];
            for (int c = 0; c < COLUMNS; ++c) weights[c] = Vec::load(w + c * L);
            sums.add(x, weights);
        }
        sums.store(acc);
    }
};

// Weights in bfloat16, [inputs / 2][32][2], widened in registers; x [inputs][ROWS] in float32.
struct WidenedWeights {
    using X = float;
    using W = uint32_t;
    static constexpr int kInputs = 2;

    template <int ROWS, int COLUMNS>
    static void run(const float* x, const uint32_t* w, int64_t inputs, float* acc) {
        Accumulators<ROWS, COLUMNS> sums;
        sums.load(acc);
        const I high = Vec::seti(static_cast<int32_t>(0xffff0000u));
        for (int64_t i = 0; i < inputs; i += 2, x += 2 * ROWS, w += kPanel) {
            if (ROWS <= kPrefetchedRows) Vec::prefetch(reinterpret_cast<const uint8_t*>(w) + kAhead);
            if (ROWS <= kPrefetchedRows && COLUMNS * L > 16) Vec::prefetch(reinterpret_cast<const uint8_t*>(w) + kAhead + 64);
            F even[COLUMNS], odd[COLUMNS];
            for (int c = 0; c < COLUMNS; ++c) {
                const I pair = Vec::loadi(w + c * L);
                even[c] = Vec::as_float(Vec::template left<16>(pair));
                odd[c] = Vec::as_float(Vec::andi(pair, high));
            }
            sums.add(x, even);
            sums.add(x + ROWS, odd);
        }
        sums.store(acc);
    }
};

#if defined(__AVX512BF16__)
// Weights and x in bfloat16, two inputs multiplied and added by one instruction; x [inputs / 2][ROWS][2].
struct PairedWeights {
    using X = uint32_t;
    using W = uint32_t;
    static constexpr int kInputs = 2;

    template <int ROWS, int COLUMNS>
    static void run(const uint32_t* x, const uint32_t* w, int64_t inputs, float* acc) {
        Accumulators<ROWS, COLUMNS> sums;
        sums.load(acc);
        for (int64_t i = 0; i < inputs; i += 2, x += ROWS, w += kPanel) {
            if (ROWS <= kPrefetchedRows) {
                Vec::prefetch(reinterpret_cast<const uint8_t*>(w) + kAhead);
                Vec::prefetch(reinterpret_cast<const uint8_t*>(w) + kAhead + 64);
            }
            __m512i weights[COLUMNS];
            for (int c = 0; c < COLUMNS; ++c) weights[c] = Vec::loadi(w + c * L);
            for (int m = 0; m < ROWS; ++m) {
                const __m512i of_row = _mm512_set1_epi32(static_cast<int32_t>(x[m]));
                for (int c = 0; c < COLUMNS; ++c)
                    sums.v[m][c] = _mm512_dpbf16_ps(sums.v[m][c], (__m512bh)of_row, (__m512bh)weights[c]);
            }
        }
        sums.store(acc);
    }
};
#endif

template <class Weights, int ROWS>
void tile(const typename Weights::X* x, const typename Weights::W* w, int64_t inputs, float* acc) {
    constexpr int columns = columns_of(ROWS);
    for (int first = 0; first < kPanel; first += columns * L)
        Weights::template run<ROWS, columns>(x, w + first, inputs, acc + first);
}

// As `tile`, for a number of rows known at run time, at most Vec::kRows.
template <class Weights, int ROWS = Vec::kRows>
void tile_of(int rows, const typename Weights::X* x, const typename Weights::W* w, int64_t inputs, float* acc) {
    if (rows == ROWS) {
        tile<Weights, ROWS>(x, w, inputs, acc);
        return;
    }
    if constexpr (ROWS > 1) tile_of<Weights, ROWS - 1>(rows, x, w, inputs, acc);
}

}  // namespace expertmesh::EM_ISA
