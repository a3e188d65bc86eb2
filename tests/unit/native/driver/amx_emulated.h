// AMX tiles in plain C++, as the Intel 64 and IA-32 Architectures Software Developer's Manual describes LDTILECFG,
// TILELOADD, TILESTORED, TDPBF16PS and TILERELEASE. Included before everything (`-include`) in place of the intrinsics.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace amx_emulated {

struct Tile {
    int rows = 0, row_bytes = 0;
    uint8_t data[16][64];
};

inline thread_local Tile tiles[8];

inline Tile& tile(int number) {
    if (tiles[number].rows == 0) std::abort();  // #UD
    return tiles[number];
}

inline void release() {
    for (Tile& one : tiles) one = Tile{};
}

inline void load_config(const void* from) {
    const uint8_t* bytes = static_cast<const uint8_t*>(from);
    if (bytes[0] != 1 || bytes[1] != 0) std::abort();
    for (int t = 0; t < 8; ++t) {
        uint16_t row_bytes;
        std::memcpy(&row_bytes, bytes + 16 + 2 * t, 2);
        const int rows = bytes[48 + t];
        if (rows > 16 || row_bytes > 64 || (rows == 0) != (row_bytes == 0)) std::abort();  // #GP
        tiles[t] = Tile{rows, row_bytes, {}};
    }
}

inline void load(int number, const void* base, long stride) {
    Tile& to = tile(number);
    for (int r = 0; r < to.rows; ++r) std::memcpy(to.data[r], static_cast<const char*>(base) + r * stride, to.row_bytes);
}

inline void store(int number, void* base, long stride) {
    const Tile& from = tile(number);
    for (int r = 0; r < from.rows; ++r) std::memcpy(static_cast<char*>(base) + r * stride, from.data[r], from.row_bytes);
}

inline float bf16(const uint8_t* row, int index) {
    uint16_t word;
    std::memcpy(&word, row + 2 * index, 2);
    const uint32_t bits = static_cast<uint32_t>(word) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline void dpbf16ps(int sums, int left, int right) {
    Tile& c = tile(sums);
    const Tile &a = tile(left), &b = tile(right);
    if (a.rows != c.rows || b.row_bytes != c.row_bytes || a.row_bytes / 4 != b.rows) std::abort();  // #UD
    for (int m = 0; m < c.rows; ++m) {
        for (int n = 0; n < c.row_bytes / 4; ++n) {
            float even = 0, odd = 0, sum;
            for (int k = 0; k < b.rows; ++k) {
                even = __builtin_fmaf(bf16(a.data[m], 2 * k), bf16(b.data[k], 2 * n), even);
                odd = __builtin_fmaf(bf16(a.data[m], 2 * k + 1), bf16(b.data[k], 2 * n + 1), odd);
            }
            std::memcpy(&sum, c.data[m] + 4 * n, 4);
            sum += even + odd;
            std::memcpy(c.data[m] + 4 * n, &sum, 4);
        }
    }
}

}  // namespace amx_emulated

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#define _tile_loadconfig amx_emulated::load_config
#define _tile_release amx_emulated::release
#define _tile_loadd amx_emulated::load
#define _tile_stored amx_emulated::store
#define _tile_dpbf16ps amx_emulated::dpbf16ps
#endif
