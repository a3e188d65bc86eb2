// The C interface, and the choice of the instruction set.
#include <cstring>

#include "calls.h"
#include "pack.h"

namespace expertmesh {
#if defined(__x86_64__)
extern const Kernels kernels_avx2, kernels_avx512, kernels_avx512bf16;
#elif defined(__aarch64__)
extern const Kernels kernels_neon;
#endif

namespace {

struct Choice {
    const Kernels* kernels;
    bool available;
};

// Best first.
const Choice* choices(int* count) {
#if defined(__x86_64__)
    static const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    static const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    static const Choice all[] = {
        {&kernels_avx512bf16, avx512 && __builtin_cpu_supports("avx512bf16")},
        {&kernels_avx512, avx512},
        {&kernels_avx2, avx2},
    };
    *count = 3;
#elif defined(__aarch64__)
    static const Choice all[] = {{&kernels_neon, true}};
    *count = 1;
#endif
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

// Changes with every change of the structs.
EM_API int32_t em_version() { return 2; }

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
