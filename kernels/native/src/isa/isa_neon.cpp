#define EM_ISA neon
#include "isa/vec_neon.h"
#include "isa/kernels.inc"

namespace expertmesh {
extern const Kernels kernels_neon;
const Kernels kernels_neon = {"neon", neon::linear, neon::experts, neon::heads, neon::attention, neon::norm, neon::gated, neon::turn, neon::sigmoids};
}  // namespace expertmesh
