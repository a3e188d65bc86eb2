// Random small calls of every entry point of the native library, on every instruction set that the CPU has, against
// plain loops in double. Compiled with sanitizers, for another architecture, or with tiles emulated: `test_driver.py`.
//     driver SEED CASES
#include "driver.h"

int main(int count, char** arguments) {
    CHECK(count == 3, "give a seed and a number of cases");
    const uint64_t seed = std::strtoull(arguments[1], nullptr, 10);
    const int64_t cases = std::strtoll(arguments[2], nullptr, 10);
    for (const char* name : {"amx", "avx512bf16", "avx512", "avx2", "neon"}) {
        if (!em_has(name)) continue;
        CHECK(em_select(name) == 0, "%s cannot be selected", name);
        std::fprintf(stderr, "%s, seed %llu\n", name, static_cast<unsigned long long>(seed));
        for (int64_t number = 0; number < cases; ++number) {
            driver::Random random(seed + static_cast<uint64_t>(number) * 1000003);
            std::fflush(stderr);
            driver::check_linear(random);
            driver::check_experts(random);
            driver::check_bad_rows(random);
        }
        std::printf("%s\n", name);
    }
    CHECK(em_select("none") == 1, "an unknown name was taken");
    return 0;
}
