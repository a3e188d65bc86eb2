// Packed values of a panel, decoded to what the tiles multiply: exact, without their scales.
// Included once for each instruction set.

namespace expertmesh::EM_ISA {

// FP4 (E2M1), codes 0 to 7; codes 8 to 15 are their negatives (OCP Microscaling Formats v1.0, section 5.3.3).
alignas(32) constexpr float kE2M1[8] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};

// FP8 (E4M3) in the low byte of each lane. Its exponent's bias is 7 where float32 has 127: the bits in place are 2**-120
// of the value, and the product with 2**120 makes denormals right too. Codes of NaN do not come here.
inline F from_e4m3(I code) {
    const I sign = Vec::template left<24>(Vec::andi(code, Vec::seti(0x80)));
    const I rest = Vec::template left<20>(Vec::andi(code, Vec::seti(0x7f)));
    return Vec::mul(Vec::as_float(Vec::ori(sign, rest)), Vec::set(0x1p120f));
}

inline F from_e2m1(I code) {
    const I sign = Vec::template left<28>(Vec::andi(code, Vec::seti(8)));
    return Vec::as_float(Vec::ori(sign, Vec::as_int(Vec::look_up(kE2M1, Vec::andi(code, Vec::seti(7))))));
}

// Scales of L outputs. E8M0: 2**(code - 127), 255 is NaN (the same source, section 5.4.1).
inline F scales_at(Scale kind, const uint8_t* at, int lane) {
    switch (kind) {
        case Scale::F32: return Vec::load(reinterpret_cast<const float*>(at) + lane);
        case Scale::BF16: return load_as(Dtype::BF16, at, lane);
        case Scale::F16: return load_as(Dtype::F16, at, lane);
        case Scale::HALVES: return Vec::set(reinterpret_cast<const float*>(at)[lane / kHalf]);
        case Scale::E8M0: {
            const I code = Vec::bytes(at + lane);
            F power = Vec::as_float(Vec::template left<23>(code));
            power = Vec::where(code, Vec::seti(0), Vec::set(0x1p-127f), power);
            return Vec::where(code, Vec::seti(255), Vec::as_float(Vec::seti(0x7fc00000)), power);
        }
        case Scale::E4M3: {
            const I code = Vec::bytes(at + lane);
            const I size = Vec::andi(code, Vec::seti(0x7f));
            return Vec::where(size, Vec::seti(0x7f), Vec::as_float(Vec::seti(0x7fc00000)), from_e4m3(code));
        }
        default: return Vec::set(1.0f);
    }
}

// What is subtracted from the codes of L outputs of a group.
inline I zeros_at(const uint8_t* zeros, int lane) { return zeros == nullptr ? Vec::seti(8) : Vec::bytes(zeros + lane); }

// To float32, [inputs][32]. `zeros` are those of the group that all these inputs belong to.
template <Format FORMAT>
void decode_floats(const uint8_t* packed, const uint8_t* zeros, int64_t inputs, float* out) {
    if constexpr (FORMAT == Format::F16) {
        for (int64_t i = 0; i < inputs * kPanel; i += L) Vec::store(out + i, Vec::halves(packed + 2 * i));
    } else if constexpr (FORMAT == Format::FP8 || FORMAT == Format::INT8) {
        for (int64_t i = 0; i < inputs; i += 2, packed += 2 * kPanel, out += 2 * kPanel) {
            Vec::prefetch(packed + kAhead);
            for (int lane = 0; lane < kPanel; lane += L) {
                const I pair = Vec::words(packed + 2 * lane);
                if constexpr (FORMAT == Format::FP8) {
                    Vec::store(out + lane, from_e4m3(pair));
                    Vec::store(out + kPanel + lane, from_e4m3(Vec::template right<8>(pair)));
                } else {
                    Vec::store(out + lane, Vec::to_float(Vec::template arithmetic_right<24>(Vec::template left<24>(pair))));
                    const I second = Vec::template arithmetic_right<24>(Vec::template left<16>(pair));
                    Vec::store(out + kPanel + lane, Vec::to_float(second));
                }
            }
        }
    } else {
        const I low = Vec::seti(15);
        for (int64_t i = 0; i < inputs; i += 8, packed += 4 * kPanel, out += 8 * kPanel) {
            Vec::prefetch(packed + kAhead);
            Vec::prefetch(packed + kAhead + 64);
            for (int lane = 0; lane < kPanel; lane += L) {
                const I zero = zeros_at(zeros, lane);
                I even = Vec::loadi(packed + 4 * lane), odd = Vec::template right<16>(even);
                for (int j = 0; j < 8; j += 2) {
                    const I first = Vec::andi(even, low), second = Vec::andi(odd, low);
                    float* to = out + j * kPanel + lane;
                    if constexpr (FORMAT == Format::FP4) {
                        Vec::store(to, from_e2m1(first));
                        Vec::store(to + kPanel, from_e2m1(second));
                    } else {
                        Vec::store(to, Vec::to_float(Vec::subi(first, zero)));
                        Vec::store(to + kPanel, Vec::to_float(Vec::subi(second, zero)));
                    }
                    even = Vec::template right<4>(even);
                    odd = Vec::template right<4>(odd);
                }
            }
        }
    }
}

#if defined(__AVX512BF16__)

// bfloat16 of E4M3's positive codes: 128 words in four registers.
struct E4m3Words {
    __m512i v[4];

    E4m3Words() {
        alignas(64) uint16_t words[128];
        for (int code = 0; code < 128; ++code) {
            const int exponent = code >> 3, fraction = code & 7;
            const float value = exponent ? (8 + fraction) * float_of((exponent + 127 - 10) << 23) : fraction * 0x1p-9f;
            words[code] = static_cast<uint16_t>(bits_of(value) >> 16);
        }
        for (int i = 0; i < 4; ++i) v[i] = _mm512_load_si512(words + 32 * i);
    }

    // Of codes in the low byte of each word.
    __m512i operator()(__m512i codes) const {
        const __m512i small = _mm512_permutex2var_epi16(v[0], codes, v[1]);
        const __m512i large = _mm512_permutex2var_epi16(v[2], codes, v[3]);
        const __m512i value = _mm512_mask_blend_epi16(_mm512_test_epi16_mask(codes, _mm512_set1_epi16(0x40)), small, large);
        return _mm512_or_si512(value, _mm512_slli_epi16(_mm512_and_si512(codes, _mm512_set1_epi16(0x80)), 8));
    }
};

// bfloat16 of the integers from -16 to 15, by what is added to them: 16.
inline __m512i integer_words() {
    alignas(64) uint16_t words[32];
    for (int i = 0; i < 32; ++i) words[i] = static_cast<uint16_t>(bits_of(static_cast<float>(i - 16)) >> 16);
    return _mm512_load_si512(words);
}

// bfloat16 of FP4's codes, twice: the fifth bit of an index belongs to the next code.
inline __m512i e2m1_words() {
    alignas(64) uint16_t words[32];
    for (int i = 0; i < 32; ++i) {
        const uint32_t sign = (i & 8) << 12;
        words[i] = static_cast<uint16_t>(sign | bits_of(kE2M1[i & 7]) >> 16);
    }
    return _mm512_load_si512(words);
}

inline __m512i integers_to_words(__m256i bytes) {
    const __m512i words = _mm512_cvtepi8_epi16(bytes);
    const __m512 even = _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(words, 16), 16));
    const __m512 odd = _mm512_cvtepi32_ps(_mm512_srai_epi32(words, 16));
    const __m512i low = _mm512_srli_epi32(_mm512_castps_si512(even), 16);
    return _mm512_mask_blend_epi16(0xaaaaaaaa, low, _mm512_castps_si512(odd));
}

// To bfloat16, [inputs / 2][32][2]. As `decode_floats`.
template <Format FORMAT>
void decode_pairs(const uint8_t* packed, const uint8_t* zeros, int64_t inputs, uint32_t* out) {
    if constexpr (FORMAT == Format::FP8 || FORMAT == Format::INT8) {
        [[maybe_unused]] const E4m3Words e4m3;
        for (int64_t i = 0; i < inputs; i += 2, packed += 2 * kPanel, out += kPanel) {
            Vec::prefetch(packed + kAhead);
            for (int half = 0; half < 2; ++half) {
                const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(packed) + half);
                const __m512i words = FORMAT == Format::FP8 ? e4m3(_mm512_cvtepu8_epi16(bytes)) : integers_to_words(bytes);
                _mm512_storeu_si512(out + kHalf * half, words);
            }
        }
    } else {
        const __m512i table = FORMAT == Format::FP4 ? e2m1_words() : integer_words();
        const __m512i low = _mm512_set1_epi16(15);
        for (int64_t i = 0; i < inputs; i += 8, packed += 4 * kPanel, out += 4 * kPanel) {
            Vec::prefetch(packed + kAhead);
            Vec::prefetch(packed + kAhead + 64);
            for (int half = 0; half < 2; ++half) {
                __m512i codes = _mm512_loadu_si512(packed + 64 * half);
                __m512i added = _mm512_setzero_si512();
                if constexpr (FORMAT == Format::INT4) {
                    const __m512i zero = _mm512_sub_epi32(_mm512_set1_epi32(16), zeros_at(zeros, kHalf * half));
                    added = _mm512_or_si512(zero, _mm512_slli_epi32(zero, 16));
                }
                for (int j = 0; j < 4; ++j) {
                    __m512i index = codes;
                    if constexpr (FORMAT == Format::INT4) index = _mm512_add_epi16(_mm512_and_si512(codes, low), added);
                    _mm512_storeu_si512(out + j * kPanel + kHalf * half, _mm512_permutexvar_epi16(index, table));
                    codes = _mm512_srli_epi32(codes, 4);
                }
            }
        }
    }
}

#endif

}  // namespace expertmesh::EM_ISA
