// What the CPU and its operating system let the kernels use.
#pragma once

namespace expertmesh::cpu {

bool avx2();        // with FMA and F16C
bool avx512();      // F, BW, DQ, VL
bool avx512bf16();
bool amx();         // tiles of bfloat16; asks the kernel for its permission, which then holds for the whole process

}  // namespace expertmesh::cpu
