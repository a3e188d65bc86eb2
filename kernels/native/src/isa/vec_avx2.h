// Eight floats in a register of AVX2 with FMA and F16C, for the code that is the same on all instruction sets.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace expertmesh::EM_ISA {

struct Vec {
    using F = __m256;
    using I = __m256i;
    static constexpr int L = 8;
    static constexpr int kRows = 6;      // of a tile
    static constexpr int kColumns = 2;   // vectors of a tile

    static F zero() { return _mm256_setzero_ps(); }
    static F set(float x) { return _mm256_set1_ps(x); }
    static F load(const float* p) { return _mm256_loadu_ps(p); }
    static void store(float* p, F x) { _mm256_storeu_ps(p, x); }
    static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
    static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
    static F add(F a, F b) { return _mm256_add_ps(a, b); }
    static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
    static F div(F a, F b) { return _mm256_div_ps(a, b); }
    // The second argument where either is NaN.
    static F max(F a, F b) { return _mm256_max_ps(a, b); }
    static F min(F a, F b) { return _mm256_min_ps(a, b); }
    static F round(F x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
    static float sum(F x) {
        const __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
        const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
    }
    static float highest(F x) {
        const __m128 four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
        const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
    }
    static F where(I equal_a, I equal_b, F then, F other) {
        return _mm256_blendv_ps(other, then, _mm256_castsi256_ps(_mm256_cmpeq_epi32(equal_a, equal_b)));
    }

    static I if_nan(F x, I then, I other) {
        const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
        return _mm256_blendv_epi8(other, then, nan);
    }

    static I loadi(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
    static I seti(int32_t x) { return _mm256_set1_epi32(x); }
    static I bytes(const uint8_t* p) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))); }
    static I words(const void* p) { return _mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))); }
    static I andi(I a, I b) { return _mm256_and_si256(a, b); }
    static I ori(I a, I b) { return _mm256_or_si256(a, b); }
    static I addi(I a, I b) { return _mm256_add_epi32(a, b); }
    static I subi(I a, I b) { return _mm256_sub_epi32(a, b); }
    template <int N> static I left(I x) { return _mm256_slli_epi32(x, N); }
    template <int N> static I right(I x) { return _mm256_srli_epi32(x, N); }
    template <int N> static I arithmetic_right(I x) { return _mm256_srai_epi32(x, N); }
    static F as_float(I x) { return _mm256_castsi256_ps(x); }
    static I as_int(F x) { return _mm256_castps_si256(x); }
    static F to_float(I x) { return _mm256_cvtepi32_ps(x); }
    static I to_int(F x) { return _mm256_cvtps_epi32(x); }
    static F halves(const void* p) { return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p))); }
    // FP8 (E4M3) divided by 256, of pairs of bytes: as float16, whose exponent has one bit more and another bias. That
    // makes denormals right, which are slow where float32 has them as operands. Codes of NaN do not come here.
    static void e4m3(const void* pairs, F& first, F& second) {
        const __m128i codes = _mm_loadu_si128(static_cast<const __m128i*>(pairs)), kept = _mm_set1_epi16(-0x4080);
        first = _mm256_cvtph_ps(_mm_and_si128(_mm_srai_epi16(_mm_slli_epi16(codes, 8), 1), kept));
        second = _mm256_cvtph_ps(_mm_and_si128(_mm_srai_epi16(codes, 1), kept));
    }
    // Each byte's entry of a table of bytes; bytes are below 16.
    static I look_up_bytes(const int8_t* table, I bytes) {
        return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table))), bytes);
    }
    static I sub_bytes(I a, I b) { return _mm256_sub_epi8(a, b); }
    // Rounded to nearest, ties to even.
    static void store_half(void* p, F x) {
        _mm_storeu_si128(static_cast<__m128i*>(p), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
    }
    // The low words of values below 65536.
    static void store_words(void* p, I x) {
        const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(x, x), 0x08);
        _mm_storeu_si128(static_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
    }
    // Lane j of row i becomes lane i of row j.
    static void transpose(I (&x)[8]) {
        I t[8];
        for (int i = 0; i < 8; i += 2) {
            t[i] = _mm256_unpacklo_epi32(x[i], x[i + 1]);
            t[i + 1] = _mm256_unpackhi_epi32(x[i], x[i + 1]);
        }
        for (int i = 0; i < 8; i += 4) {
            x[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
            x[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
            x[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
            x[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
        }
        for (int i = 0; i < 4; ++i) {
            t[i] = _mm256_permute2x128_si256(x[i], x[i + 4], 0x20);
            t[i + 4] = _mm256_permute2x128_si256(x[i], x[i + 4], 0x31);
        }
        for (int i = 0; i < 8; ++i) x[i] = t[i];
    }
    static void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }
};

}  // namespace expertmesh::EM_ISA
