// Rows of x times one panel of a matrix in any format. Included once for each instruction set.
//
// Formats with scales add up a group of inputs without its scale, then add that sum times the scale: a fixed order too.

namespace expertmesh::EM_ISA {

constexpr int64_t kDirectInputs = 2048;  // of a panel before the next tile of rows: they stay in the L2 cache
constexpr int64_t kDecodedInputs = 256;  // decoded at a time: 16 KiB in bfloat16, 32 in float32
constexpr int64_t kBlockRows = 16 * Vec::kRows;  // rows for which a panel's sums are kept

// x in tiles; `X` is float, or uint32_t for pairs of bfloat16.
template <class X>
struct Rows {
    const X* tiles;
    int64_t rows;
    int64_t row_size;  // elements X of a row

    const X* tile(int64_t number) const { return tiles + number * Vec::kRows * row_size; }
};

constexpr int inputs_of_x(const float*) { return 1; }
constexpr int inputs_of_x(const uint32_t*) { return 2; }

// Elements X of a row.
template <class X>
int64_t row_size_of(const Matrix& w, const X* x) {
    return padded_inputs(w) / inputs_of_x(x);
}

// acc[rows][32] += x w for the panel's inputs from `begin` to `end`, which `weights` begins with.
template <class Weights>
void add_tiles(const Rows<typename Weights::X>& x, const typename Weights::W* weights, int64_t begin, int64_t end, float* acc) {
    using X = typename Weights::X;
    const int64_t per_x = inputs_of_x(static_cast<const X*>(nullptr));
    for (int64_t number = 0; number < tiles_of(x.rows); ++number) {
        const int rows = rows_of_tile(x.rows, number);
        tile_of<Weights>(rows, x.tile(number) + begin / per_x * rows, weights, end - begin, acc + number * Vec::kRows * kPanel);
    }
}

template <class Weights>
void direct(const uint8_t* values, int64_t inputs, const Rows<typename Weights::X>& x, float* acc) {
    const auto* w = reinterpret_cast<const typename Weights::W*>(values);
    for (int64_t begin = 0; begin < inputs; begin += kDirectInputs) {
        const int64_t end = begin + kDirectInputs < inputs ? begin + kDirectInputs : inputs;
        add_tiles<Weights>(x, w + begin / Weights::kInputs * kPanel, begin, end, acc);
    }
}

// part[rows][32] times the group's scales is added to acc.
inline void add_scaled(const Matrix& w, int64_t panel, int64_t group, const float* part, int64_t rows, float* acc) {
    const Scale kind = static_cast<Scale>(w.scale);
    const uint8_t* scales = w.scales + (panel * groups_of(w) + group) * scale_bytes(kind);
    for (int lane = 0; lane < kPanel; lane += L) {
        F scale = scales_at(kind, scales, lane);
        if (w.outer != nullptr) scale = Vec::mul(scale, Vec::set(w.outer[2 * panel + lane / kHalf]));
        for (int64_t m = 0; m < rows; ++m) {
            float* sum = acc + m * kPanel + lane;
            Vec::store(sum, Vec::fma(Vec::load(part + m * kPanel + lane), scale, Vec::load(sum)));
        }
    }
}

template <Format FORMAT, class Weights>
void decode(const uint8_t* packed, const uint8_t* zeros, int64_t inputs, typename Weights::W* out) {
#if defined(__AVX512BF16__)
    if constexpr (sizeof(typename Weights::X) == sizeof(typename Weights::W) && Weights::kInputs == 2) {
        decode_pairs<FORMAT>(packed, zeros, inputs, out);
        return;
    } else
#endif
        decode_floats<FORMAT>(packed, zeros, inputs, out);
}

template <Format FORMAT, class Weights>
void decoded(const Matrix& w, int64_t panel, const Rows<typename Weights::X>& x, float* acc) {
    using W = typename Weights::W;
    const int64_t inputs = padded_inputs(w), group = w.group ? w.group : inputs;
    const bool scaled = static_cast<Scale>(w.scale) != Scale::NONE;
    const uint8_t* values = w.values + panel * panel_bytes(FORMAT, w.inputs);
    W* weights = static_cast<W*>(scratch(Purpose::DECODED, kDecodedInputs * kPanel * sizeof(float)));
    float part[kBlockRows * kPanel];
    for (int64_t first = 0, number = 0; first < inputs; first += group, ++number) {
        const int64_t last = first + group < inputs ? first + group : inputs;
        float* sums = scaled ? part : acc;
        if (scaled) __builtin_memset(part, 0, x.rows * kPanel * sizeof(float));
        const uint8_t* zeros = w.zeros ? w.zeros + (panel * groups_of(w) + number) * kPanel : nullptr;
        for (int64_t begin = first; begin < last; begin += kDecodedInputs) {
            const int64_t end = begin + kDecodedInputs < last ? begin + kDecodedInputs : last;
            decode<FORMAT, Weights>(values + begin * kPanel / 8 * bytes_of_8(FORMAT), zeros, end - begin, weights);
            add_tiles<Weights>(x, weights, begin, end, sums);
        }
        if (scaled) add_scaled(w, panel, number, part, x.rows, acc);
    }
}

// acc[rows][32] = x W_panel^T, at most kBlockRows rows.
inline void panel_product(const Matrix& w, int64_t panel, const Rows<float>& x, float* acc) {
    const int64_t inputs = padded_inputs(w);
    const Format format = static_cast<Format>(w.format);
    const uint8_t* values = w.values + panel * panel_bytes(format, w.inputs);
    __builtin_memset(acc, 0, x.rows * kPanel * sizeof(float));
    switch (format) {
        case Format::F32: direct<FloatWeights>(values, inputs, x, acc); break;
        case Format::BF16: direct<WidenedWeights>(values, inputs, x, acc); break;
        case Format::F16: decoded<Format::F16, FloatWeights>(w, panel, x, acc); break;
        case Format::FP8: decoded<Format::FP8, FloatWeights>(w, panel, x, acc); break;
        case Format::INT8: decoded<Format::INT8, FloatWeights>(w, panel, x, acc); break;
        case Format::FP4: decoded<Format::FP4, FloatWeights>(w, panel, x, acc); break;
        case Format::INT4: decoded<Format::INT4, FloatWeights>(w, panel, x, acc); break;
    }
}

#if defined(__AVX512BF16__)
inline void panel_product(const Matrix& w, int64_t panel, const Rows<uint32_t>& x, float* acc) {
    const Format format = static_cast<Format>(w.format);
    __builtin_memset(acc, 0, x.rows * kPanel * sizeof(float));
    switch (format) {
        case Format::BF16:
            direct<PairedWeights>(w.values + panel * panel_bytes(format, w.inputs), padded_inputs(w), x, acc);
            break;
        case Format::FP8: decoded<Format::FP8, PairedWeights>(w, panel, x, acc); break;
        case Format::INT8: decoded<Format::INT8, PairedWeights>(w, panel, x, acc); break;
        case Format::FP4: decoded<Format::FP4, PairedWeights>(w, panel, x, acc); break;
        case Format::INT4: decoded<Format::INT4, PairedWeights>(w, panel, x, acc); break;
        default: __builtin_unreachable();  // such a matrix is multiplied in float32
    }
}
#endif

}  // namespace expertmesh::EM_ISA
