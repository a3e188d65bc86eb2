// Sixteen floats in a register of AVX-512 (F, BW, VL), for the code that is the same on all instruction sets.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace expertmesh::EM_ISA {

struct Vec {
    using F = __m512;
    using I = __m512i;
    static constexpr int L = 16;
    static constexpr int kRows = 12;     // of a tile
    static constexpr int kColumns = 2;   // vectors of a tile

    static F zero() { return _mm512_setzero_ps(); }
    static F set(float x) { return _mm512_set1_ps(x); }
    static F load(const float* p) { return _mm512_loadu_ps(p); }
    static void store(float* p, F x) { _mm512_storeu_ps(p, x); }
    static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
    static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
    static F add(F a, F b) { return _mm512_add_ps(a, b); }
    static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
    static F div(F a, F b) { return _mm512_div_ps(a, b); }
    // The second argument where either is NaN.
    static F max(F a, F b) { return _mm512_max_ps(a, b); }
    static F min(F a, F b) { return _mm512_min_ps(a, b); }
    static F round(F x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
    static float sum(F x) { return _mm512_reduce_add_ps(x); }
    static float highest(F x) { return _mm512_reduce_max_ps(x); }
    static F where(I equal_a, I equal_b, F then, F other) {
        return _mm512_mask_blend_ps(_mm512_cmpeq_epi32_mask(equal_a, equal_b), other, then);
    }

    static I if_nan(F x, I then, I other) {
        return _mm512_mask_blend_epi32(_mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), other, then);
    }

    static I loadi(const void* p) { return _mm512_loadu_si512(p); }
    static I seti(int32_t x) { return _mm512_set1_epi32(x); }
    static I bytes(const uint8_t* p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
    static I words(const void* p) { return _mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p))); }
    static I andi(I a, I b) { return _mm512_and_si512(a, b); }
    static I ori(I a, I b) { return _mm512_or_si512(a, b); }
    static I addi(I a, I b) { return _mm512_add_epi32(a, b); }
    static I subi(I a, I b) { return _mm512_sub_epi32(a, b); }
    template <int N> static I left(I x) { return _mm512_slli_epi32(x, N); }
    template <int N> static I right(I x) { return _mm512_srli_epi32(x, N); }
    template <int N> static I arithmetic_right(I x) { return _mm512_srai_epi32(x, N); }
    static F as_float(I x) { return _mm512_castsi512_ps(x); }
    static I as_int(F x) { return _mm512_castps_si512(x); }
    static F to_float(I x) { return _mm512_cvtepi32_ps(x); }
    static I to_int(F x) { return _mm512_cvtps_epi32(x); }
    static F halves(const void* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p))); }
    // FP8 (E4M3) divided by 256, of pairs of bytes: as float16, whose exponent has one bit more and another bias. That
    // makes denormals right, which are slow where float32 has them as operands. Codes of NaN do not come here.
    static void e4m3(const void* pairs, F& first, F& second) {
        const __m256i codes = _mm256_loadu_si256(static_cast<const __m256i*>(pairs)), kept = _mm256_set1_epi16(-0x4080);
        first = _mm512_cvtph_ps(_mm256_and_si256(_mm256_srai_epi16(_mm256_slli_epi16(codes, 8), 1), kept));
        second = _mm512_cvtph_ps(_mm256_and_si256(_mm256_srai_epi16(codes, 1), kept));
    }
    // Of a table of 16 by the low four bits of each index.
    static F look_up(const float* table, I index) { return _mm512_permutexvar_ps(index, _mm512_load_ps(table)); }
    // Rounded to nearest, ties to even.
    static void store_half(void* p, F x) {
        _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
    }
    static void store_words(void* p, I x) {
        _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtepi32_epi16(x));
    }
    // Lane j of row i becomes lane i of row j.
    static void transpose(I (&x)[16]) {
        I t[16];
        for (int i = 0; i < 16; i += 2) {
            t[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
            t[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
        }
        for (int i = 0; i < 16; i += 4) {
            x[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
            x[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
            x[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
            x[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
        }
        // Row i has columns i, i + 4, i + 8 and i + 12 of four rows now, in parts of 128 bits.
        for (int i = 0; i < 4; ++i) {
            t[i] = _mm512_shuffle_i32x4(x[i], x[i + 4], 0x88);
            t[i + 4] = _mm512_shuffle_i32x4(x[i], x[i + 4], 0xdd);
            t[i + 8] = _mm512_shuffle_i32x4(x[i + 8], x[i + 12], 0x88);
            t[i + 12] = _mm512_shuffle_i32x4(x[i + 8], x[i + 12], 0xdd);
        }
        for (int i = 0; i < 4; ++i) {
            x[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
            x[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
            x[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
            x[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
        }
    }
    static void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }
};

}  // namespace expertmesh::EM_ISA
