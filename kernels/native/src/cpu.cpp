#include "cpu.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace expertmesh::cpu {
namespace {

// By number where compilers differ in the names that they know.
constexpr unsigned kF16c = 1u << 29;                         // leaf 1, ECX
constexpr unsigned kAmxTile = 1u << 24, kAmxBf16 = 1u << 22;  // leaf 7, EDX

// Linux saves tiles only for a process that has asked for it: Documentation/arch/x86/xstate.rst.
constexpr int kRequestPermission = 0x1023, kTileData = 18;

}  // namespace

bool avx2() {
    unsigned a, b, c = 0, d;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __get_cpuid(1, &a, &b, &c, &d) && (c & kF16c);
}

bool avx512() {
    return avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

// Every CPU since Sapphire Rapids and Zen 4 that has the one has the other.
bool avx512bf16() {
    return avx512() && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vbmi");
}

bool amx() {
#if defined(EM_AMX_EMULATED)  // by the tests
    return avx512bf16();
#endif
    unsigned a, b, c, d = 0;
    if (!avx512bf16() || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    if (!(d & kAmxTile) || !(d & kAmxBf16)) return false;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

}  // namespace expertmesh::cpu
#endif
