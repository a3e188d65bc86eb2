// Rows of a matrix as checkpoints publish them, into panels.
#include "pack.h"

#include <cstring>

namespace expertmesh {
namespace {

constexpr int64_t kPackedInputs = 64;  // of a panel at a time: a multiple of 8

// Inputs 0, 2, 4, 6 of eight codes, the first in the lowest bits, as the low word; 1, 3, 5, 7 as the high one.
uint32_t split(uint32_t codes) {
    const auto every_second = [](uint32_t x) {
        x &= 0x0f0f0f0fu;
        x = (x | x >> 4) & 0x00ff00ffu;
        return (x | x >> 8) & 0xffffu;
    };
    return every_second(codes) | every_second(codes >> 4) << 16;
}

// Elements of one row, `stride` elements of a panel apart.
template <class T, class Change>
void spread(const uint8_t* row, int64_t bytes, uint8_t* out, Change change) {
    const int64_t whole = bytes / static_cast<int64_t>(sizeof(T));
    for (int64_t i = 0; i < whole; ++i) {
        T value;
        std::memcpy(&value, row + i * sizeof(T), sizeof(T));
        value = change(value);
        std::memcpy(out + i * kPanel * sizeof(T), &value, sizeof(T));
    }
    if (const int64_t rest = bytes - whole * sizeof(T); rest > 0) {
        T value = 0;
        std::memcpy(&value, row + whole * sizeof(T), rest);
        value = change(value);
        std::memcpy(out + whole * kPanel * sizeof(T), &value, sizeof(T));
    }
}

void pack_row(Format format, const uint8_t* row, int64_t inputs, int lane, uint8_t* panel) {
    const auto same = [](auto value) { return value; };
    switch (format) {
        case Format::F32: spread<uint32_t>(row, inputs * 4, panel + lane * 4, same); break;
        case Format::F16: spread<uint16_t>(row, inputs * 2, panel + lane * 2, same); break;
        case Format::BF16: spread<uint32_t>(row, inputs * 2, panel + lane * 4, same); break;
        case Format::FP8:
        case Format::INT8: spread<uint16_t>(row, inputs, panel + lane * 2, same); break;
        default: spread<uint32_t>(row, (inputs + 1) / 2, panel + lane * 4, split);
    }
}

}  // namespace

void take(const TakeCall& call) {
    const Matrix& w = *call.w;
    const Format format = static_cast<Format>(w.format);
    const int64_t size = bytes_of_8(format) / 8, step = step_of(format), rows_of_half = w.outputs / 2;
    for (int64_t n = 0; n < call.count; ++n) {
        int64_t row = call.numbers[n], panel = row / kPanel, lane = row % kPanel;
        if (call.gate_up) {
            const int64_t half = row >= rows_of_half, place = row - half * rows_of_half;
            panel = place / kHalf, lane = half * kHalf + place % kHalf;
        }
        const uint8_t* from = w.values + panel * panel_bytes(format, w.inputs) + lane * step * size;
        uint8_t* to = call.out + n * w.inputs * size;
        for (int64_t i = 0; i < w.inputs; i += step) {
            const int64_t count = w.inputs - i < step ? w.inputs - i : step;
            std::memcpy(to + i * size, from + i / step * kPanel * step * size, count * size);
        }
    }
}

void pack(const PackCall& call) {
    const Format format = static_cast<Format>(call.format);
    const int lanes = call.half < 0 ? kPanel : kHalf, first_lane = call.half > 0 ? kHalf : 0;
    const int64_t bytes = panel_bytes(format, call.inputs);
    for (int64_t row = 0; row < call.rows;) {
        const int64_t place = call.first_row + row, lane = place % lanes, left = call.rows - row;
        const int64_t rows = left < lanes - lane ? left : lanes - lane;
        // A few inputs of all rows of the panel at a time: what they fill together stays in the cache.
        for (int64_t i = 0; i < call.inputs; i += kPackedInputs) {
            const int64_t count = call.inputs - i < kPackedInputs ? call.inputs - i : kPackedInputs;
            const uint8_t* source = call.source + row * call.row_bytes + i / 8 * bytes_of_8(format);
            uint8_t* panel = call.panels + place / lanes * bytes + i / 8 * kPanel * bytes_of_8(format);
            for (int64_t n = 0; n < rows; ++n)
                pack_row(format, source + n * call.row_bytes, count, first_lane + static_cast<int>(lane + n), panel);
        }
        row += rows;
    }
}

}  // namespace expertmesh
