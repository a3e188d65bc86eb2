// The innermost loops: a few rows of x times one panel, inputs added one after the other.
//
// The order of additions of an output is that of the inputs, whatever the number of rows beside it. That is why a row's
// bits do not depend on the batch. Included once for each instruction set.

// Sums stay in registers only where everything between them is inlined, however large it seems to the compiler.
#if !defined(EM_INLINE)
#define EM_INLINE inline __attribute__((always_inline))
#endif

namespace expertmesh::EM_ISA {

// How far ahead weights are asked for. Measured: tests/benchmarks/README.md.
constexpr int64_t kAhead = 4096;

// Vectors of a tile: all 32 outputs at once where the registers hold them.
constexpr int columns_of(int rows) { return rows * (kPanel / L) <= Vec::kRows * Vec::kColumns ? kPanel / L : Vec::kColumns; }

// What to prefetch: the panel from `kAhead` bytes on, and behind its end the one that this thread takes next.
struct Ahead {
    const uint8_t* at;
    const uint8_t* end;
    const uint8_t* next;

    Ahead(const uint8_t* panel, int64_t bytes, const uint8_t* next_panel)
        : at(panel + (bytes < kAhead ? bytes : kAhead)), end(panel + bytes), next(next_panel) {}

    // `BYTES` divides the panel's.
    template <int BYTES>
    EM_INLINE void step() {
        if (at == end) at = next;
        for (int line = 0; line < BYTES; line += 64) Vec::prefetch(at + line);
        at += BYTES;
    }
};

inline F multiply_add(float x, F w, F sum) { return Vec::fma(Vec::set(x), w, sum); }

#if defined(__AVX512BF16__)
// The sum first of the odd input's product, then of the even one's, each rounded to nearest; denormals count as 0.
inline F multiply_add(uint32_t x, I w, F sum) {
    return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_set1_epi32(static_cast<int32_t>(x)), (__m512bh)w);
}
#endif

// A power of two as unit is exact; multiplied with the scale instead it could overflow.
inline F scaled(F sum, float unit, F scale, F acc) {
    return Vec::fma(unit == 1.0f ? sum : Vec::mul(sum, Vec::set(unit)), scale, acc);
}

// Loops are unrolled by order: else a compiler may leave the larger tiles' sums in memory.
template <int ROWS, int COLUMNS>
struct Accumulators {
    F v[ROWS][COLUMNS];

    EM_INLINE void clear() {
#pragma GCC unroll 16
        for (int m = 0; m < ROWS; ++m)
#pragma GCC unroll 16
            for (int c = 0; c < COLUMNS; ++c) v[m][c] = Vec::zero();
    }

    EM_INLINE void load(const float* acc) {
#pragma GCC unroll 16
        for (int m = 0; m < ROWS; ++m)
#pragma GCC unroll 16
            for (int c = 0; c < COLUMNS; ++c) v[m][c] = Vec::load(acc + m * kPanel + c * L);
    }

    EM_INLINE void store(float* acc) const {
#pragma GCC unroll 16
        for (int m = 0; m < ROWS; ++m)
#pragma GCC unroll 16
            for (int c = 0; c < COLUMNS; ++c) Vec::store(acc + m * kPanel + c * L, v[m][c]);
    }

    // acc += these sums times `unit` times scales.
    EM_INLINE void add_scaled(float unit, const F (&scales)[COLUMNS], float* acc) const {
#pragma GCC unroll 16
        for (int c = 0; c < COLUMNS; ++c)
#pragma GCC unroll 16
            for (int m = 0; m < ROWS; ++m) {
                float* sum = acc + m * kPanel + c * L;
                Vec::store(sum, scaled(v[m][c], unit, scales[c], Vec::load(sum)));
            }
    }

    template <class X, class W>
    EM_INLINE void add(const X* x, const W (&w)[COLUMNS]) {
#pragma GCC unroll 16
        for (int m = 0; m < ROWS; ++m)
#pragma GCC unroll 16
            for (int c = 0; c < COLUMNS; ++c) v[m][c] = multiply_add(x[m], w[c], v[m][c]);
    }
};

// Weights in float32, [inputs][32]; x [inputs][ROWS] in float32.
struct FloatWeights {
    using X = float;
    using W = float;
    static constexpr int kInputs = 1;  // of a step

    template <int ROWS, int COLUMNS>
    EM_INLINE static void add(const float* x, const float* w, Accumulators<ROWS, COLUMNS>& sums) {
        F weights[COLUMNS];
        for (int c = 0; c < COLUMNS; ++c) weights[c] = Vec::load(w + c * L);
        sums.add(x, weights);
    }
};

// Weights in bfloat16, [inputs / 2][32][2], widened in registers; x [inputs][ROWS] in float32.
struct WidenedWeights {
    using X = float;
    using W = uint32_t;
    static constexpr int kInputs = 2;

    template <int ROWS, int COLUMNS>
    EM_INLINE static void add(const float* x, const uint32_t* w, Accumulators<ROWS, COLUMNS>& sums) {
        F weights[COLUMNS];
        for (int c = 0; c < COLUMNS; ++c) weights[c] = Vec::as_float(Vec::template left<16>(Vec::loadi(w + c * L)));
        sums.add(x, weights);
        const I high = Vec::seti(static_cast<int32_t>(0xffff0000u));
        for (int c = 0; c < COLUMNS; ++c) weights[c] = Vec::as_float(Vec::andi(Vec::loadi(w + c * L), high));
        sums.add(x + ROWS, weights);
    }
};

#if defined(__AVX512BF16__)
// Weights and x in bfloat16, two inputs multiplied and added by one instruction; x [inputs / 2][ROWS][2].
struct PairedWeights {
    using X = uint32_t;
    using W = uint32_t;
    static constexpr int kInputs = 2;

    template <int ROWS, int COLUMNS>
    EM_INLINE static void add(const uint32_t* x, const uint32_t* w, Accumulators<ROWS, COLUMNS>& sums) {
        I weights[COLUMNS];
        for (int c = 0; c < COLUMNS; ++c) weights[c] = Vec::loadi(w + c * L);
        sums.add(x, weights);
    }
};
#endif

constexpr int inputs_of_x(const float*) { return 1; }
constexpr int inputs_of_x(const uint32_t*) { return 2; }

// Adds `inputs` of a panel to `sums`. `ahead` is null where the weights are in the cache.
template <class Weights, int ROWS, int COLUMNS>
EM_INLINE void add_inputs(const typename Weights::X* x, const typename Weights::W* w, int64_t inputs, Ahead* ahead,
                Accumulators<ROWS, COLUMNS>& sums) {
    constexpr int per_step = Weights::kInputs / inputs_of_x(static_cast<typename Weights::X*>(nullptr)) * ROWS;
    for (int64_t i = 0; i < inputs; i += Weights::kInputs, x += per_step, w += kPanel) {
        if (ahead != nullptr) ahead->step<kPanel * sizeof(*w)>();
        Weights::add(x, w, sums);
    }
}

// Calls `run` with a number of rows, from 1 to MOST, as a constant.
template <int MOST, class Run>
void with_rows(int rows, Run run) {
    if (rows == MOST) run(std::integral_constant<int, MOST>());
    else if constexpr (MOST > 1) with_rows<MOST - 1>(rows, run);
}

}  // namespace expertmesh::EM_ISA
