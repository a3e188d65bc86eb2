// Four floats in a register of NEON (aarch64), for the code that is the same on all instruction sets.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

namespace expertmesh::EM_ISA {

struct Vec {
    using F = float32x4_t;
    using I = int32x4_t;
    static constexpr int L = 4;
    static constexpr int kRows = 5;      // of a tile
    static constexpr int kColumns = 4;   // vectors of a tile

    static F zero() { return vdupq_n_f32(0); }
    static F set(float x) { return vdupq_n_f32(x); }
    static F load(const float* p) { return vld1q_f32(p); }
    static void store(float* p, F x) { vst1q_f32(p, x); }
    static F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
    static F mul(F a, F b) { return vmulq_f32(a, b); }
    static F add(F a, F b) { return vaddq_f32(a, b); }
    static F sub(F a, F b) { return vsubq_f32(a, b); }
    static F div(F a, F b) { return vdivq_f32(a, b); }
    // NaN where either is NaN.
    static F max(F a, F b) { return vmaxq_f32(a, b); }
    static F min(F a, F b) { return vminq_f32(a, b); }
    static F round(F x) { return vrndnq_f32(x); }
    static float sum(F x) { return vaddvq_f32(x); }
    static float highest(F x) { return vmaxvq_f32(x); }
    static F where(I equal_a, I equal_b, F then, F other) { return vbslq_f32(vceqq_s32(equal_a, equal_b), then, other); }

    static I if_nan(F x, I then, I other) { return vbslq_s32(vceqq_f32(x, x), other, then); }

    static I loadi(const void* p) { return vreinterpretq_s32_u8(vld1q_u8(static_cast<const uint8_t*>(p))); }
    static I seti(int32_t x) { return vdupq_n_s32(x); }
    static I bytes(const uint8_t* p) {
        uint32_t four;
        std::memcpy(&four, p, 4);
        const uint16x8_t wide = vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(four)));
        return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(wide)));
    }
    static I words(const void* p) { return vreinterpretq_s32_u32(vmovl_u16(vld1_u16(static_cast<const uint16_t*>(p)))); }
    static I andi(I a, I b) { return vandq_s32(a, b); }
    static I ori(I a, I b) { return vorrq_s32(a, b); }
    static I addi(I a, I b) { return vaddq_s32(a, b); }
    static I subi(I a, I b) { return vsubq_s32(a, b); }
    template <int N> static I left(I x) { return vshlq_n_s32(x, N); }
    template <int N> static I right(I x) { return vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(x), N)); }
    template <int N> static I arithmetic_right(I x) { return vshrq_n_s32(x, N); }
    static F as_float(I x) { return vreinterpretq_f32_s32(x); }
    static I as_int(F x) { return vreinterpretq_s32_f32(x); }
    static F to_float(I x) { return vcvtq_f32_s32(x); }
    static I to_int(F x) { return vcvtnq_s32_f32(x); }
    static F halves(const void* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(static_cast<const uint16_t*>(p)))); }
    // FP8 (E4M3) divided by 256, of pairs of bytes: as float16, whose exponent has one bit more and another bias.
    // Codes of NaN do not come here.
    static void e4m3(const void* pairs, F& first, F& second) {
        const int16x4_t codes = vld1_s16(static_cast<const int16_t*>(pairs)), kept = vdup_n_s16(-0x4080);
        first = vcvt_f32_f16(vreinterpret_f16_s16(vand_s16(vshr_n_s16(vshl_n_s16(codes, 8), 1), kept)));
        second = vcvt_f32_f16(vreinterpret_f16_s16(vand_s16(vshr_n_s16(codes, 1), kept)));
    }
    // Each byte's entry of a table of bytes; bytes are below 16.
    static I look_up_bytes(const int8_t* table, I bytes) {
        return vreinterpretq_s32_s8(vqtbl1q_s8(vld1q_s8(table), vreinterpretq_u8_s32(bytes)));
    }
    static I sub_bytes(I a, I b) { return vreinterpretq_s32_s8(vsubq_s8(vreinterpretq_s8_s32(a), vreinterpretq_s8_s32(b))); }
    // Rounded to nearest, ties to even.
    static void store_half(void* p, F x) { vst1_u16(static_cast<uint16_t*>(p), vreinterpret_u16_f16(vcvt_f16_f32(x))); }
    static void store_words(void* p, I x) { vst1_u16(static_cast<uint16_t*>(p), vmovn_u32(vreinterpretq_u32_s32(x))); }
    // Lane j of row i becomes lane i of row j.
    static void transpose(I (&x)[4]) {
        const int32x4x2_t low = vtrnq_s32(x[0], x[1]), high = vtrnq_s32(x[2], x[3]);
        x[0] = vcombine_s32(vget_low_s32(low.val[0]), vget_low_s32(high.val[0]));
        x[1] = vcombine_s32(vget_low_s32(low.val[1]), vget_low_s32(high.val[1]));
        x[2] = vcombine_s32(vget_high_s32(low.val[0]), vget_high_s32(high.val[0]));
        x[3] = vcombine_s32(vget_high_s32(low.val[1]), vget_high_s32(high.val[1]));
    }
    static void prefetch(const void* p) { __builtin_prefetch(p); }
};

}  // namespace expertmesh::EM_ISA
