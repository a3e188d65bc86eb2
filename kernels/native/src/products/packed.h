// Products with packed values: few rows take them from registers, more share what is decoded into the cache.
// Included once for each instruction set.

namespace expertmesh::EM_ISA {

// At most one tile.
constexpr int kStreamedRows = Vec::kRows < 8 ? Vec::kRows : 8;
// Decoded at a time, or one group where it has more: 16 KiB in bfloat16, 32 in float32.
constexpr int64_t kDecodedInputs = 256;

constexpr int streamed_columns(int rows) {
    constexpr int all = kPanel / L, most = Vec::kRows * Vec::kColumns * 2 / 3;  // the rest is for decoding
    return rows * all <= most ? all : rows * all / 2 <= most ? all / 2 : 1;
}

inline const uint8_t* zeros_of(const Matrix& w, int64_t panel, int64_t group) {
    return w.zeros == nullptr ? nullptr : w.zeros + (panel * groups_of(w) + group) * kPanel;
}

// acc[ROWS][32] += x W_panel^T, each value decoded where it is multiplied.
template <class Codes, int ROWS>
void streamed(const Matrix& w, int64_t panel, const typename Codes::X* x, float* acc, const Next& next) {
    using X = typename Codes::X;
    constexpr int COLUMNS = streamed_columns(ROWS);
    constexpr int x_step = Codes::kInputs / inputs_of_x(static_cast<X*>(nullptr)) * ROWS;
    const int64_t inputs = padded_inputs(w), group = w.group ? w.group : inputs, bytes = panel_bytes(Codes::kFormat, w.inputs);
    const uint8_t* step = w.values + panel * bytes;
    const PanelScales scales(w, panel);
    Ahead ahead(step, bytes, next.values);
    Codes codes;
    for (int64_t first = 0, number = 0; first < inputs; first += group, ++number) {
        const int64_t steps = ((first + group < inputs ? group : inputs - first)) / Codes::kInputs;
        codes.begin(zeros_of(w, panel, number));
        next.prefetch(number, scales.bytes);
        for (int lane = 0; lane < kPanel; lane += COLUMNS * L) {
            Accumulators<ROWS, COLUMNS> sums;
            sums.clear();
            for (int64_t i = 0; i < steps; ++i) {
                if (lane == 0) ahead.step<Codes::kBytes>();
                codes.template each<COLUMNS>(step + i * Codes::kBytes, lane, [&](int at, const auto& weights) {
                    sums.add(x + i * x_step + at * ROWS, weights);
                });
            }
            if constexpr (Codes::kColumns == 2) {
                static_assert(COLUMNS == 2);
                for (int m = 0; m < ROWS; ++m) {
                    I first = Vec::as_int(sums.v[m][0]), second = Vec::as_int(sums.v[m][1]);
                    Codes::in_order(first, second);
                    sums.v[m][0] = Vec::as_float(first), sums.v[m][1] = Vec::as_float(second);
                }
            }
            F factors[COLUMNS];
            scales.read(number, lane, factors);
            sums.add_scaled(Codes::kUnit, factors, acc + lane);
        }
        step += steps * Codes::kBytes, x += steps * x_step;
    }
}

template <class Codes, class V, class W>
void store_in_order(const V (&decoded)[Codes::kColumns], W* out) {
    V vectors[Codes::kColumns];
    for (int c = 0; c < Codes::kColumns; ++c) vectors[c] = decoded[c];
    if constexpr (Codes::kColumns == 2) Codes::in_order(vectors[0], vectors[1]);
    __builtin_memcpy(out, vectors, sizeof(vectors));
}

// `inputs` of a panel, of one group, as `Codes::Weights` reads them.
template <class Codes>
void decode(const Codes& codes, const uint8_t* step, int64_t inputs, typename Codes::Weights::W* out) {
    for (int64_t i = 0; i < inputs; i += Codes::kInputs, step += Codes::kBytes) {
        for (int line = 0; line < Codes::kBytes; line += 64) Vec::prefetch(step + kAhead + line);
        for (int lane = 0; lane < kPanel; lane += Codes::kColumns * L)
            codes.template each<Codes::kColumns>(step, lane, [&](int at, const auto& weights) {
                store_in_order<Codes>(weights, out + at * kPanel + lane);
            });
        out += Codes::kInputs / Codes::Weights::kInputs * kPanel;
    }
}

template <class Codes>
void decoded_groups(const Matrix& w, int64_t panel, const Rows<typename Codes::X>& x, typename Codes::Weights::W* weights, float* acc) {
    const int64_t inputs = padded_inputs(w);
    const uint8_t* step = w.values + panel * panel_bytes(Codes::kFormat, w.inputs);
    const PanelScales scales(w, panel);
    Codes codes;
    for (int64_t begin = 0, group = 0; begin < inputs; begin += w.group, ++group) {
        const int64_t count = begin + w.group < inputs ? w.group : inputs - begin;
        codes.begin(zeros_of(w, panel, group));
        decode(codes, step + begin / Codes::kInputs * Codes::kBytes, count, weights);
        add_group<Codes>(x, weights, begin, count, scales, group, acc);
    }
}

// A whole row with one scale, which multiplies at the end.
template <class Codes>
void decoded_whole(const Matrix& w, int64_t panel, const Rows<typename Codes::X>& x, typename Codes::Weights::W* weights, float* acc) {
    const int64_t inputs = padded_inputs(w);
    const uint8_t* step = w.values + panel * panel_bytes(Codes::kFormat, w.inputs);
    Codes codes;
    codes.begin(zeros_of(w, panel, 0));
    for (int64_t begin = 0; begin < inputs; begin += kDecodedInputs) {
        const int64_t end = begin + kDecodedInputs < inputs ? begin + kDecodedInputs : inputs;
        decode(codes, step + begin / Codes::kInputs * Codes::kBytes, end - begin, weights);
        add_tiles<typename Codes::Weights>(x, weights, begin, end, nullptr, acc);
    }
    F scales[kPanel / L];
    PanelScales(w, panel).read(0, 0, scales);
    for (int64_t m = 0; m < x.rows; ++m)
        for (int c = 0; c < kPanel / L; ++c) {
            float* sum = acc + m * kPanel + c * L;
            Vec::store(sum, scaled(Vec::load(sum), Codes::kUnit, scales[c], Vec::zero()));
        }
}

template <class Codes>
void decoded(const Matrix& w, int64_t panel, const Rows<typename Codes::X>& x, float* acc) {
    using W = typename Codes::Weights::W;
    const int64_t most = w.group > kDecodedInputs ? w.group : kDecodedInputs;
    W* weights = static_cast<W*>(scratch(Purpose::DECODED, most * kPanel * sizeof(float)));
    if (groups_of(w) == 1) decoded_whole<Codes>(w, panel, x, weights, acc);
    else decoded_groups<Codes>(w, panel, x, weights, acc);
}

}  // namespace expertmesh::EM_ISA
