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

// Groups of inputs must be whole blocks.
inline bool in_blocks(const Matrix& w) {
    return static_cast<Scale>(w.scale) == Scale::NONE || w.group % kBlock == 0;
}

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

struct TileWeights {
    using X = Blocked;
    using W = uint32_t;
    static constexpr int kInputs = 2;

    template <int ROWS, int COLUMNS>
    static void run(const Blocked* x, const uint32_t* w, int64_t inputs, float* acc) {
        static_assert(ROWS <= 16 && COLUMNS * L == kPanel, "two tiles of sums hold all outputs");
        shape(ROWS);
        settle(acc);
        _tile_loadd(0, acc, kPanel * 4);
        _tile_loadd(1, acc + kHalf, kPanel * 4);
        for (; inputs >= kBlock; inputs -= kBlock, x += ROWS * kBlock / 2, w += kBlock / 2 * kPanel) {
            if (ROWS <= kPrefetchedRows) {
                for (int64_t line = 0; line < kBlock / 2 * kPanel * 4; line += 64)
                    Vec::prefetch(reinterpret_cast<const uint8_t*>(w) + kAhead + line);
            }
            add(x, w);
        }
        if (inputs > 0) {
            alignas(64) uint32_t last[kBlock / 2 * kPanel] = {};
            __builtin_memcpy(last, w, inputs / 2 * kPanel * sizeof(uint32_t));
            settle(last);
            add(x, last);
        }
        _tile_stored(0, acc, kPanel * 4);
        _tile_stored(1, acc + kHalf, kPanel * 4);
    }

    static void add(const Blocked* x, const uint32_t* w) {
        _tile_loadd(2, x, 64);
        _tile_loadd(3, w, kPanel * 4);
        _tile_loadd(4, w + kHalf, kPanel * 4);
        _tile_dpbf16ps(0, 2, 3);
        _tile_dpbf16ps(1, 2, 4);
    }
};

inline void panel_product(const Matrix& w, int64_t panel, const Rows<Blocked>& x, float* acc) {
    const Format format = static_cast<Format>(w.format);
    __builtin_memset(acc, 0, x.rows * kPanel * sizeof(float));
    shaped_for = 0;  // torch's library may have used this thread's tiles
    switch (format) {
        case Format::BF16:
            direct<TileWeights>(w.values + panel * panel_bytes(format, w.inputs), padded_inputs(w), x, acc);
            break;
        case Format::FP8: decoded<Format::FP8, TileWeights>(w, panel, x, acc); break;
        case Format::INT8: decoded<Format::INT8, TileWeights>(w, panel, x, acc); break;
        case Format::FP4: decoded<Format::FP4, TileWeights>(w, panel, x, acc); break;
        case Format::INT4: decoded<Format::INT4, TileWeights>(w, panel, x, acc); break;
        default: __builtin_unreachable();  // such a matrix is multiplied in float32
    }
    _tile_release();  // tiles in use cost every switch of threads 8 KiB
}

}  // namespace expertmesh::EM_ISA
