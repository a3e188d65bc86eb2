#define EM_ISA amx
#include "vec_avx512.h"
#include "kernels.inc"

namespace expertmesh {
extern const Kernels kernels_amx;
const Kernels kernels_amx = {"amx", amx::linear, amx::experts};
}  // namespace expertmesh
