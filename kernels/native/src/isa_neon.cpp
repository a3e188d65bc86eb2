#define EM_ISA neon
#include "vec_neon.h"
#include "kernels.inc"

namespace expertmesh {
extern const Kernels kernels_neon;
const Kernels kernels_neon = {"neon", neon::linear, neon::experts, neon::heads, neon::attention, neon::norm, neon::gated, neon::turn, neon::sigmoids};
}  // namespace expertmesh
