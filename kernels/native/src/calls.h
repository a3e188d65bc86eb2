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

// The same for each head with a matrix of its own: y[row][head] = x[row][head] w[head]^T.
struct HeadsCall {
    const Matrix* w;  // [heads], all of one shape and format
    const void* x;
    void* y;
    int64_t rows;
    int64_t heads;
    int64_t x_row;
    int64_t x_head;
    int64_t y_row;
    int64_t y_head;
    int32_t dtype;  // of x and y
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

// Attention of rows over a paged cache. A segment is what one sequence has in the step: its rows follow each other, and
// the last of them stands at the position of the segment's last slot. Strides are in elements.
struct AttentionCall {
    const void* q;              // [rows][heads][key_size]
    const void* keys;           // [slots of the cache][kv_heads][key_size]
    const void* values;         // [slots of the cache][kv_heads][value_size]; the keys themselves for latents
    const float* sinks;         // [heads], null: none
    void* out;                  // [rows][heads][value_size], without gaps
    const int64_t* slots;       // of all segments
    const int64_t* slot_start;  // [segments + 1], where each segment's slots begin
    const int64_t* row_start;   // [segments + 1], where its rows begin
    const int64_t* since;       // [segments], the position of its first slot
    const int64_t* first;       // [rows], the first position that each row sees
    int64_t segments;
    int64_t heads;
    int64_t kv_heads;
    int64_t key_size;
    int64_t value_size;
    int64_t q_row;
    int64_t q_head;
    int64_t key_slot;
    int64_t key_head;
    int64_t value_slot;
    int64_t value_head;
    float scale;
    int32_t dtype;  // of everything
    int32_t threads;
};

// y = rms_norm(x) * weight.
struct NormCall {
    const void* x;       // [rows][size]
    const void* weight;  // [size], null: none
    void* y;             // [rows][size], without gaps
    int64_t rows;
    int64_t size;
    int64_t x_row;
    float eps;
    int32_t dtype;  // of everything
    int32_t round_last;
    int32_t threads;
};

// y = silu(the first half of x) * the second half.
struct GatedCall {
    const void* x;  // [rows][2 * size]
    void* y;        // [rows][size], without gaps
    int64_t rows;
    int64_t size;
    int64_t x_row;
    int32_t dtype;
    int32_t threads;
};

// Heads of rows normalized by head where there are weights, then rotated: each element with the one half a head on, or,
// interleaved, each with its neighbour, the first of all pairs in the first half of y. y has no gaps.
struct TurnCall {
    const void* x;       // [rows][heads][size]
    const void* weight;  // [heads][size], null: no norm
    const void* cosines; // [rows][size]
    const void* sines;   // [rows][size]
    void* y;
    int64_t rows;
    int64_t heads;
    int64_t size;  // even
    int64_t x_row;
    int64_t x_head;
    float eps;
    int32_t dtype;        // of x, weight and y
    int32_t angle_dtype;  // float32, or that of x: products are rounded to it then
    int32_t interleaved;
    int32_t threads;
};

struct SigmoidCall {
    const void* x;
    void* y;
    int64_t count;
    int32_t dtype;
};

enum class Status : int32_t { OK = 0, NO_MEMORY = 1, BAD_EXPERT = 2, BAD_TOKEN = 3 };

struct Kernels {
    const char* name;
    Status (*linear)(const LinearCall&);
    Status (*experts)(const ExpertsCall&);
    Status (*heads)(const HeadsCall&);
    Status (*attention)(const AttentionCall&);
    Status (*norm)(const NormCall&);
    Status (*gated)(const GatedCall&);
    Status (*turn)(const TurnCall&);
    Status (*sigmoids)(const SigmoidCall&);
};

}  // namespace expertmesh
