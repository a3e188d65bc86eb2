#define EM_ISA avx2
#include "isa/vec_avx2.h"
#include "isa/kernels.inc"

namespace expertmesh {
extern const Kernels kernels_avx2;
const Kernels kernels_avx2 = {"avx2", avx2::linear, avx2::experts, avx2::heads, avx2::attention, avx2::norm, avx2::gated, avx2::turn, avx2::sigmoids};
}  // namespace expertmesh
