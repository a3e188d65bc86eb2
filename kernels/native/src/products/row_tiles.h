// Tiles of rows times a piece of a panel that lies decoded in memory. Included once for each instruction set.

namespace expertmesh::EM_ISA {

// x in tiles; `X` is float, or uint32_t for pairs of bfloat16.
template <class X>
struct Rows {
    const X* tiles;
    int64_t rows;
    int64_t row_size;  // elements X of a row

    const X* tile(int64_t number) const { return tiles + number * Vec::kRows * row_size; }
};

// Elements X of a row.
template <class X>
int64_t row_size_of(const Matrix& w, const X* x) {
    return padded_inputs(w) / inputs_of_x(x);
}

// acc[rows][32] += x w for the panel's inputs from `begin` to `end`, which `weights` begins with.
template <class Weights>
void add_tiles(const Rows<typename Weights::X>& x, const typename Weights::W* weights, int64_t begin, int64_t end,
               Ahead* ahead, float* acc) {
    constexpr int64_t per_x = inputs_of_x(static_cast<typename Weights::X*>(nullptr));
    for (int64_t number = 0; number < tiles_of(x.rows); ++number) {
        const int rows = rows_of_tile(x.rows, number);
        const typename Weights::X* of_tile = x.tile(number) + begin / per_x * rows;
        with_rows<Vec::kRows>(rows, [&](auto constant) {
            constexpr int ROWS = decltype(constant)::value, COLUMNS = columns_of(ROWS);
            for (int lane = 0; lane < kPanel; lane += COLUMNS * L) {
                float* at = acc + number * Vec::kRows * kPanel + lane;
                Accumulators<ROWS, COLUMNS> sums;
                sums.load(at);
                add_inputs<Weights>(of_tile, weights + lane, end - begin, lane == 0 && number == 0 ? ahead : nullptr, sums);
                sums.store(at);
            }
        });
    }
}

// acc[rows][32] += the sums over one group, decoded, times its scales.
template <class Codes>
void add_group(const Rows<typename Codes::X>& x, const typename Codes::Weights::W* weights, int64_t begin, int64_t count,
               const PanelScales& scales, int64_t group, float* acc) {
    using Weights = typename Codes::Weights;
    constexpr int64_t per_x = inputs_of_x(static_cast<typename Codes::X*>(nullptr));
    for (int64_t number = 0; number < tiles_of(x.rows); ++number) {
        const int rows = rows_of_tile(x.rows, number);
        with_rows<Vec::kRows>(rows, [&](auto constant) {
            constexpr int ROWS = decltype(constant)::value, COLUMNS = columns_of(ROWS);
            for (int lane = 0; lane < kPanel; lane += COLUMNS * L) {
                Accumulators<ROWS, COLUMNS> sums;
                sums.clear();
                add_inputs<Weights>(x.tile(number) + begin / per_x * rows, weights + lane, count, nullptr, sums);
                F factors[COLUMNS];
                scales.read(group, lane, factors);
                sums.add_scaled(Codes::kUnit, factors, acc + number * Vec::kRows * kPanel + lane);
            }
        });
    }
}

}  // namespace expertmesh::EM_ISA
