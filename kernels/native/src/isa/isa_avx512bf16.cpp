#define EM_ISA avx512bf16
#include "isa/vec_avx512.h"
#include "isa/kernels.inc"

namespace expertmesh {
extern const Kernels kernels_avx512bf16;
const Kernels kernels_avx512bf16 = {"avx512bf16", avx512bf16::linear, avx512bf16::experts, avx512bf16::heads, avx512bf16::attention, avx512bf16::norm, avx512bf16::gated, avx512bf16::turn, avx512bf16::sigmoids};
}  // namespace expertmesh
