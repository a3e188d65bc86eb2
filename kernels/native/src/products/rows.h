// Rows of x as the tiles read them: input by input, the rows of a tile side by side.
// Included once for each instruction set.

namespace expertmesh::EM_ISA {

// Which tile a row is in, and how many rows that has, of `rows` in all.
inline int rows_of_tile(int64_t rows, int64_t tile) {
    const int64_t left = rows - tile * Vec::kRows;
    return static_cast<int>(left < Vec::kRows ? left : Vec::kRows);
}

inline int64_t tiles_of(int64_t rows) { return (rows + Vec::kRows - 1) / Vec::kRows; }

// A row's elements in float32, times `weight` and rounded to its dtype again where that is not 1; zeros behind them.
inline void read_row(Dtype dtype, const void* x, int64_t at, const Matrix& w, float weight, float* out) {
    const int64_t padded = padded_inputs(w);
    int64_t i = 0;
    for (; i + L <= w.inputs; i += L) Vec::store(out + i, load_as(dtype, x, at + i));
    if (i < w.inputs) {
        Vec::store(out + i, load_some(dtype, x, at + i, static_cast<int>(w.inputs - i)));
    }
    for (int64_t k = w.inputs; k < padded; ++k) out[k] = 0.0f;
    if (weight == 1.0f) return;
    for (i = 0; i < padded; i += L) {
        const F product = rounded_to(dtype, Vec::mul(Vec::load(out + i), Vec::set(weight)));
        Vec::store(out + i, product);
    }
    for (int64_t k = w.inputs; k < padded; ++k) out[k] = 0.0f;  // 0 times infinity is no number
}

inline int64_t row_floats(const Matrix& w) { return padded_inputs(w) + L; }

// Writes inputs `begin` to `end` of row `m` into a tile of `rows` rows.
inline void place(const float* values, int64_t begin, int64_t end, const Matrix& w, int rows, int m, float* out) {
    const int32_t* places = w.places;
    if (places == nullptr && rows == 1) {
        __builtin_memcpy(out + begin, values, (end - begin) * sizeof(float));
        return;
    }
    for (int64_t i = begin; i < end; ++i) {
        const int64_t to = places != nullptr && i < w.inputs ? places[i] : i;
        out[to * rows + m] = values[i - begin];
    }
}

// The same in bfloat16, two inputs together. `begin` and `end` are even.
inline void place(const float* values, int64_t begin, int64_t end, const Matrix& w, int rows, int m, uint32_t* out) {
    const int32_t* places = w.places;
    if (places == nullptr) {
        for (int64_t i = begin; i < end; i += 2) {
            out[i / 2 * rows + m] = bits_of(values[i - begin]) >> 16 | (bits_of(values[i - begin + 1]) & 0xffff0000u);
        }
        return;
    }
    uint16_t* words = reinterpret_cast<uint16_t*>(out);
    for (int64_t i = begin; i < end; ++i) {
        const int64_t to = i < w.inputs ? places[i] : i;
        words[(to / 2 * rows + m) * 2 + to % 2] = static_cast<uint16_t>(bits_of(values[i - begin]) >> 16);
    }
}

}  // namespace expertmesh::EM_ISA
