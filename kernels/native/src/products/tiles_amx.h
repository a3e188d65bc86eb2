// bfloat16 by AMX tiles: up to 12 rows of x by 32 inputs, times 32 inputs by 32 outputs. Included where the compiler has
// AMX, behind `product.h`.
//
// NEVER RUN ON A CPU WITH AMX: none was at hand. The tests run it with tiles emulated in plain C++ as Intel's manual
// describes them, and each start compares small products with numpy (`self_check.py`).
//
// An output's additions are those of whole blocks of 32 inputs, zeros behind the last one: the same for every number of
// rows. A panel of bfloat16 pairs is what a tile of weights looks like: rows of 16 outputs, 128 bytes apart.

namespace expertmesh::EM_ISA {

constexpr int64_t kBlock = 32;  // inputs: 16 pairs are a tile's row of x, and its rows of weights

// Two inputs of x; a tile of rows is [inputs / 32][rows][16].
struct Blocked {
    uint32_t pair;
};

constexpr int inputs_of_x(const Blocked*) { return 2; }

inline int64_t row_size_of(const Matrix& w, const Blocked*) { return round_up(padded_inputs(w), kBlock) / 2; }

inline void place(const float* values, int64_t begin, int64_t end, const Matrix& w, int rows, int m, Blocked* out) {
    auto* words = reinterpret_cast<uint16_t*>(out);
    const auto put = [&](int64_t i, uint16_t word) { words[(i / kBlock * rows + m) * kBlock + i % kBlock] = word; };
    for (int64_t i = begin; i < end; ++i) {
        const int64_t to = w.places != nullptr && i < w.inputs ? w.places[i] : i;
        put(to, static_cast<uint16_t>(bits_of(values[i - begin]) >> 16));
    }
    if (end == padded_inputs(w))
        for (int64_t i = end; i % kBlock != 0; ++i) put(i, 0);
}

// Packed formats are computed as by AVX-512: their few rows are decoded in registers, which tiles cannot read.
inline bool in_blocks(const Matrix& w) { return static_cast<Format>(w.format) == Format::BF16; }

// The operand of LDTILECFG: tiles 0 and 1 are sums, 2 is x, 3 and 4 are weights.
struct alignas(64) TileShapes {
    uint8_t palette = 1;
    uint8_t start_row = 0;
    uint8_t reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64};
    uint8_t rows[16] = {};
};

// gcc does not know that the tile instructions read memory: what was written before must be there.
inline void settle(const void* memory) { asm volatile("" : : "r"(memory) : "memory"); }

// Rows of the tiles of this thread's shapes; 0 where others may have changed them since.
static thread_local int shaped_for = 0;

inline void shape(int rows) {
    if (rows == shaped_for) return;
    TileShapes shapes;
    for (int tile = 0; tile < 5; ++tile) shapes.rows[tile] = static_cast<uint8_t>(tile < 3 ? rows : 16);
    settle(&shapes);
    _tile_loadconfig(&shapes);
    shaped_for = rows;
}

// sums[ROWS][32] += x w for `inputs` of a panel.
struct BlockTile {
    static void run(int rows, const Blocked* x, const uint32_t* w, int64_t inputs, Ahead* ahead, float* sums) {
        shape(rows);
        settle(sums);
        _tile_loadd(0, sums, kPanel * 4);
        _tile_loadd(1, sums + kHalf, kPanel * 4);
        for (; inputs >= kBlock; inputs -= kBlock, x += rows * kBlock / 2, w += kBlock / 2 * kPanel) {
            for (int pair = 0; ahead != nullptr && pair < kBlock / 2; ++pair) ahead->step<kPanel * 4>();
            add(x, w);
        }
        if (inputs > 0) add_last(x, w, inputs);
        _tile_stored(0, sums, kPanel * 4);
        _tile_stored(1, sums + kHalf, kPanel * 4);
    }

    static void add_last(const Blocked* x, const uint32_t* w, int64_t inputs) {
        alignas(64) uint32_t last[kBlock / 2 * kPanel] = {};
        __builtin_memcpy(last, w, inputs / 2 * kPanel * sizeof(uint32_t));
        settle(last);
        add(x, last);
    }

    static void add(const Blocked* x, const uint32_t* w) {
        _tile_loadd(2, x, 64);
        _tile_loadd(3, w, kPanel * 4);
        _tile_loadd(4, w + kHalf, kPanel * 4);
        _tile_dpbf16ps(0, 2, 3);
        _tile_dpbf16ps(1, 2, 4);
    }
};

inline void panel_product(const Matrix& w, int64_t panel, const Rows<Blocked>& x, float* acc, const Next& next) {
    const int64_t inputs = padded_inputs(w), bytes = panel_bytes(Format::BF16, w.inputs);
    const uint8_t* values = w.values + panel * bytes;
    Ahead ahead(values, bytes, next.values);
    __builtin_memset(acc, 0, x.rows * kPanel * sizeof(float));
    shaped_for = 0;  // torch's library may have used this thread's tiles
    for (int64_t begin = 0; begin < inputs; begin += kDirectInputs) {
        const int64_t count = begin + kDirectInputs < inputs ? kDirectInputs : inputs - begin;
        const auto* weights = reinterpret_cast<const uint32_t*>(values) + begin / 2 * kPanel;
        for (int64_t number = 0; number < tiles_of(x.rows); ++number) {
            const int rows = rows_of_tile(x.rows, number);
            const Blocked* of_tile = x.tile(number) + begin / 2 * rows;
            BlockTile::run(rows, of_tile, weights, count, number ? nullptr : &ahead, acc + number * Vec::kRows * kPanel);
        }
    }
    _tile_release();  // tiles in use cost every switch of threads 8 KiB
}

}  // namespace expertmesh::EM_ISA
