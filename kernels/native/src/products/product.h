// Rows of x times one panel of a matrix in any format. Included once for each instruction set.
//
// Formats with scales add up a group of inputs without its scale, then add that sum times the scale: a fixed order too.

namespace expertmesh::EM_ISA {

constexpr int64_t kDirectInputs = 2048;  // of a panel before the next tile of rows: they stay in the L2 cache
constexpr int64_t kBlockRows = 16 * Vec::kRows;  // rows for which a panel's sums are kept

// Floats that are multiplied as they lie there.
template <class Weights>
void direct(const Matrix& w, int64_t panel, const Rows<typename Weights::X>& x, float* acc, const Next& next) {
    const int64_t inputs = padded_inputs(w), bytes = panel_bytes(static_cast<Format>(w.format), w.inputs);
    const uint8_t* values = w.values + panel * bytes;
    const auto* weights = reinterpret_cast<const typename Weights::W*>(values);
    Ahead ahead(values, bytes, next.values);
    for (int64_t begin = 0; begin < inputs; begin += kDirectInputs) {
        const int64_t end = begin + kDirectInputs < inputs ? begin + kDirectInputs : inputs;
        add_tiles<Weights>(x, weights + begin / Weights::kInputs * kPanel, begin, end, &ahead, acc);
    }
}

template <class Codes, class X>
void coded(const Matrix& w, int64_t panel, const Rows<X>& x, float* acc, const Next& next) {
    if (x.rows > kStreamedRows) return decoded<Codes>(w, panel, x, acc);
    with_rows<kStreamedRows>(static_cast<int>(x.rows), [&](auto rows) {
        streamed<Codes, decltype(rows)::value>(w, panel, x.tiles, acc, next);
    });
}

// acc[rows][32] = x W_panel^T, at most kBlockRows rows. `next` is what this thread reads behind the panel.
inline void panel_product(const Matrix& w, int64_t panel, const Rows<float>& x, float* acc, const Next& next) {
    __builtin_memset(acc, 0, x.rows * kPanel * sizeof(float));
    switch (static_cast<Format>(w.format)) {
        case Format::F32: return direct<FloatWeights>(w, panel, x, acc, next);
        case Format::BF16: return direct<WidenedWeights>(w, panel, x, acc, next);
        case Format::F16: return coded<FloatCodes<Format::F16>>(w, panel, x, acc, next);
        case Format::FP8: return coded<FloatCodes<Format::FP8>>(w, panel, x, acc, next);
        case Format::INT8: return coded<FloatCodes<Format::INT8>>(w, panel, x, acc, next);
        case Format::FP4: return coded<FloatCodes<Format::FP4>>(w, panel, x, acc, next);
        case Format::INT4: return coded<FloatCodes<Format::INT4>>(w, panel, x, acc, next);
    }
}

#if defined(__AVX512BF16__)
inline void panel_product(const Matrix& w, int64_t panel, const Rows<uint32_t>& x, float* acc, const Next& next) {
    __builtin_memset(acc, 0, x.rows * kPanel * sizeof(float));
    switch (static_cast<Format>(w.format)) {
        case Format::BF16: return direct<PairedWeights>(w, panel, x, acc, next);
        case Format::FP8: return coded<ByteWords<Format::FP8>>(w, panel, x, acc, next);
        case Format::INT8: return coded<ByteWords<Format::INT8>>(w, panel, x, acc, next);
        case Format::FP4: return coded<NibbleWords<Format::FP4, true>>(w, panel, x, acc, next);
        case Format::INT4:
            if (w.zeros == nullptr) return coded<NibbleWords<Format::INT4, true>>(w, panel, x, acc, next);
            return coded<NibbleWords<Format::INT4, false>>(w, panel, x, acc, next);
        default: __builtin_unreachable();  // such a matrix is multiplied in float32
    }
}
#endif

// How many panels a thread takes at a time, of `panels` in all: what it prefetches behind one is then mostly its own,
// and eight units for each thread still share out evenly.
inline int64_t piece_of(const Matrix& w, int64_t panels, int threads) {
    constexpr int64_t bytes = 1 << 17;
    const int64_t wanted = bytes / panel_bytes(static_cast<Format>(w.format), w.inputs), most = panels / (8 * threads);
    const int64_t piece = wanted < most ? wanted : most;
    return piece < 1 ? 1 : piece;
}

}  // namespace expertmesh::EM_ISA
