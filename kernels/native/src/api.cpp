// The C interface, and the choice of the instruction set.
#include <cstring>

#include "calls.h"
#include "choice.h"
#include "cpu.h"
#include "pack.h"

namespace expertmesh {
// Those that the compiler knew (EM_ISA_*, `build.py`).
extern const Kernels kernels_avx2, kernels_avx512, kernels_avx512bf16, kernels_amx, kernels_neon;

namespace {

struct Choice {
    const Kernels* kernels;
    bool available;
};

// Best first.
const Choice* choices(int* count) {
#if defined(__x86_64__)
    static const Choice all[] = {
#if defined(EM_ISA_AMX)
        {&kernels_amx, cpu::amx()},
#endif
#if defined(EM_ISA_AVX512BF16)
        {&kernels_avx512bf16, cpu::avx512bf16()},
#endif
#if defined(EM_ISA_AVX512)
        {&kernels_avx512, cpu::avx512()},
#endif
#if defined(EM_ISA_AVX2)
        {&kernels_avx2, cpu::avx2()},
#endif
    };
#elif defined(__aarch64__)
    static const Choice all[] = {{&kernels_neon, true}};
#endif
    *count = sizeof(all) / sizeof(all[0]);
    return all;
}

const Kernels* find(const char* name) {
    int count;
    const Choice* all = choices(&count);
    for (int i = 0; i < count; ++i)
        if (all[i].available && (name == nullptr || std::strcmp(name, all[i].kernels->name) == 0)) return all[i].kernels;
    return nullptr;
}

const Kernels* chosen = find(nullptr);

}  // namespace
}  // namespace expertmesh

using namespace expertmesh;

#define EM_API extern "C" __attribute__((visibility("default")))

// Changes with every change of the structs or of the layout of panels.
EM_API int32_t em_version() { return 4; }

// Which sources it was built from: `build.py`.
EM_API const char* em_sources() { return EM_SOURCES; }

// Whether the CPU has an instruction set.
EM_API int32_t em_has(const char* name) { return find(name) != nullptr; }

// The name of the instruction set in use; null where the CPU has none that the kernels know.
EM_API const char* em_isa() { return chosen ? chosen->name : nullptr; }

// Takes another instruction set from now on: 0, or 1 where the CPU lacks it. Not while a call runs.
EM_API int32_t em_select(const char* name) {
    const Kernels* kernels = find(name);
    if (kernels == nullptr) return 1;
    chosen = kernels;
    return 0;
}

EM_API void em_pack(const PackCall* call) { pack(*call); }

EM_API void em_take(const TakeCall* call) { take(*call); }

EM_API int32_t em_linear(const LinearCall* call) { return static_cast<int32_t>(chosen->linear(*call)); }

EM_API int32_t em_experts(const ExpertsCall* call) { return static_cast<int32_t>(chosen->experts(*call)); }

EM_API int32_t em_heads(const HeadsCall* call) { return static_cast<int32_t>(chosen->heads(*call)); }

EM_API int32_t em_attention(const AttentionCall* call) { return static_cast<int32_t>(chosen->attention(*call)); }

EM_API int32_t em_norm(const NormCall* call) { return static_cast<int32_t>(chosen->norm(*call)); }

EM_API int32_t em_gated(const GatedCall* call) { return static_cast<int32_t>(chosen->gated(*call)); }

EM_API int32_t em_turn(const TurnCall* call) { return static_cast<int32_t>(chosen->turn(*call)); }

EM_API int32_t em_sigmoid(const SigmoidCall* call) { return static_cast<int32_t>(chosen->sigmoids(*call)); }

EM_API int32_t em_choose(const ChooseCall* call) { return choose(*call); }
