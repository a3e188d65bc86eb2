// What Python asks for: structs shared with `kernels/native/structs.py`, and one function for each instruction set.
#pragma once

#include "matrix.h"

namespace expertmesh {

// y[row] = x[row] w^T + bias; rows `x_stride` and `y_stride` elements apart.
struct LinearCall {
    const Matrix* w;
    const void* x;
    const float* bias;  // [panels * 32], null: none
    void* y;
    int64_t rows;
    int64_t x_stride;
    int64_t y_stride;
    int32_t x_dtype;
    int32_t y_dtype;
    int32_t threads;
};

enum class Activation : int32_t { SILU = 0, CLAMPED_SWIGLU = 1 };

// A layer's experts. `gate_up` has panels of gate and up in halves, its biases stand in the order of its panels.
struct Experts {
    const Matrix* gate_up;      // [count]
    const Matrix* down;         // [count]
    const float* gate_up_bias;  // [count][gate-up panels * 32], null: none
    const float* down_bias;     // [count][down panels * 32], null: none
    int64_t count;
    int64_t hidden;
    int64_t ffn;
    int32_t activation;
    int32_t weight_inputs;
    float alpha;
    float limit;
};

// y[token] = the sum over the token's rows, by ascending expert, or y[row] one by one where `by_row`.
struct ExpertsCall {
    const Experts* experts;
    const void* x;
    const int64_t* token_of_row;
    const int64_t* expert_of_row;
    const float* weight_of_row;
    float* y;  // [tokens or rows][hidden]
    int64_t tokens;
    int64_t rows;
    int64_t x_stride;
    int32_t x_dtype;
    int32_t threads;
    int32_t by_row;
};

enum class Status : int32_t { OK = 0, NO_MEMORY = 1, BAD_EXPERT = 2, BAD_TOKEN = 3 };

struct Kernels {
    const char* name;
    Status (*linear)(const LinearCall&);
    Status (*experts)(const ExpertsCall&);
};

}  // namespace expertmesh
