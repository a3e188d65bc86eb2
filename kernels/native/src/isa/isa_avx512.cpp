#define EM_ISA avx512
#include "isa/vec_avx512.h"
#include "isa/kernels.inc"

namespace expertmesh {
extern const Kernels kernels_avx512;
const Kernels kernels_avx512 = {"avx512", avx512::linear, avx512::experts, avx512::heads, avx512::attention, avx512::norm, avx512::gated, avx512::turn, avx512::sigmoids};
}  // namespace expertmesh
