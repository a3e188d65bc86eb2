// Rows of a matrix as checkpoints publish them, into panels (`matrix.h`). Shared with `kernels/native/structs.py`.
#pragma once

#include "matrix.h"

namespace expertmesh {

// Rows `first_row` on of a matrix, or of the gate (`half` 0) or up (1) of a gate-up matrix; -1: of a whole one.
// 4-bit rows have two codes a byte, the earlier in the low four bits. `panels` begins with zeros.
struct PackCall {
    const uint8_t* source;
    uint8_t* panels;
    int64_t rows;
    int64_t first_row;
    int64_t inputs;
    int64_t row_bytes;
    int32_t format;
    int32_t half;
};

// Rows of a matrix of floats by number, out again: [count][inputs], as they were stored.
struct TakeCall {
    const Matrix* w;
    const int64_t* numbers;
    uint8_t* out;
    int64_t count;
    int32_t gate_up;
};

void pack(const PackCall& call);
void take(const TakeCall& call);

}  // namespace expertmesh
