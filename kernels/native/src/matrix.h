// Matrices in panels, as every kernel reads them.
//
// A panel holds 32 outputs. Its values lie input by input, so that a product streams it once from front to back:
//   F32, F16     [inputs][32]
//   BF16         [inputs / 2][32][2]
//   FP8, INT8    [inputs / 2][32][2]
//   FP4, INT4    [inputs / 8][32] words of 32 bits: inputs 0, 2, 4, 6 in the low half, 1, 3, 5, 7 in the high one
// Inputs are padded with zeros to whole eights, outputs to whole panels. The panels of a gate-up matrix hold 16 rows of
// the gate and then the same 16 of the up.
#pragma once

#include <cstdint>

namespace expertmesh {

constexpr int kPanel = 32;
constexpr int kHalf = 16;

enum class Format : int32_t { F32 = 0, BF16 = 1, F16 = 2, FP8 = 3, INT8 = 4, FP4 = 5, INT4 = 6 };

// What multiplies a group of inputs of one output; HALVES are float32, one for 16 outputs.
enum class Scale : int32_t { NONE = 0, F32 = 1, BF16 = 2, F16 = 3, E8M0 = 4, E4M3 = 5, HALVES = 6 };

enum class Dtype : int32_t { F32 = 0, BF16 = 1, F16 = 2 };

// Shared with Python (`kernels/native/structs.py`): change both.
struct Matrix {
    int32_t format;
    int32_t scale;
    int64_t outputs;
    int64_t inputs;
    int64_t panels;
    int64_t group;           // inputs that share a scale; 0: all of them
    const uint8_t* values;   // [panels][value_bytes]
    const uint8_t* scales;   // [panels][groups][32], or [panels][groups][2] for HALVES
    const uint8_t* zeros;    // INT4: [panels][groups][32], what is subtracted from a code; null: 8
    const float* outer;      // [panels][2], multiplies the scales of 16 outputs; null: 1
    const int32_t* places;   // [inputs], where each input of x stands in the panels; null: in order
};

inline int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

// Inputs of a step: what is packed together.
inline int64_t step_of(Format format) {
    switch (format) {
        case Format::F32:
        case Format::F16: return 1;
        case Format::FP4:
        case Format::INT4: return 8;
        default: return 2;
    }
}

// Bytes of 8 values.
inline int64_t bytes_of_8(Format format) {
    switch (format) {
        case Format::F32: return 32;
        case Format::BF16:
        case Format::F16: return 16;
        case Format::FP8:
        case Format::INT8: return 8;
        default: return 4;
    }
}

// Whole steps of every format, so that one packed row of x suits experts of one layer in different formats.
inline int64_t padded_inputs(const Matrix& w) { return round_up(w.inputs, 8); }

inline int64_t panel_bytes(Format format, int64_t inputs) { return round_up(inputs, 8) * kPanel / 8 * bytes_of_8(format); }

inline int64_t groups_of(const Matrix& w) { return w.group ? (w.inputs + w.group - 1) / w.group : 1; }

inline int64_t scale_bytes(Scale scale) {
    switch (scale) {
        case Scale::NONE: return 0;
        case Scale::F32: return 4 * kPanel;
        case Scale::BF16:
        case Scale::F16: return 2 * kPanel;
        case Scale::HALVES: return 8;
        default: return kPanel;
    }
}

}  // namespace expertmesh
