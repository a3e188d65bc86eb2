#define EM_ISA amx
#include "isa/vec_avx512.h"
#include "isa/kernels.inc"

namespace expertmesh {
extern const Kernels kernels_amx;
const Kernels kernels_amx = {"amx", amx::linear, amx::experts, amx::heads, amx::attention, amx::norm, amx::gated, amx::turn, amx::sigmoids};
}  // namespace expertmesh
