// Packed values, decoded in registers to pairs of bfloat16, as `codes.h` does to float32: `each` calls
// `use(pair, vectors)` with two inputs. Included once for each instruction set that multiplies such pairs.

namespace expertmesh::EM_ISA {

// bfloat16 of a number that is exact in it and not denormal.
constexpr uint16_t word_of(float value) {
    if (value == 0) return 0;
    uint32_t word = value < 0 ? 0x8000 : 0;
    float size = value < 0 ? -value : value;
    int exponent = 127;
    for (; size >= 2; size /= 2) ++exponent;
    for (; size < 1; size *= 2) --exponent;
    word |= exponent << 7 | static_cast<uint32_t>((size - 1) * 128);
    return static_cast<uint16_t>(word);
}

template <int COUNT>
struct alignas(64) WordTable {
    uint16_t words[COUNT] = {};
};

constexpr WordTable<128> e4m3_table() {
    WordTable<128> table;
    for (int code = 0; code < 128; ++code) {
        const int exponent = code >> 3, fraction = code & 7;
        float value = exponent ? 8.0f + fraction : 2.0f * fraction;
        for (int i = exponent; i > 0; --i) value *= 2;
        table.words[code] = word_of(value * 0x1p-10f);
    }
    return table;
}

// An index has five bits. Where it is a code as it is, the fifth belongs to the next one: the table has all twice. With
// zero points it is the difference plus 16.
template <Format FORMAT, bool SYMMETRIC>
constexpr WordTable<32> nibble_table() {
    WordTable<32> table;
    for (int i = 0; i < 32; ++i)
        table.words[i] = word_of(FORMAT == Format::FP4 ? kE2M1[i & 15] : static_cast<float>(SYMMETRIC ? (i & 15) - 8 : i - 16));
    return table;
}

// E4M3: the 128 positive codes' words in four registers.
struct E4m3Words {
    static constexpr WordTable<128> kTable = e4m3_table();
    I v[4];

    E4m3Words() {
        for (int i = 0; i < 4; ++i) v[i] = _mm512_load_si512(kTable.words + 32 * i);
    }

    // Of codes in the low byte of each word.
    I operator()(I codes) const {
        const I small = _mm512_permutex2var_epi16(v[0], codes, v[1]);
        const I large = _mm512_permutex2var_epi16(v[2], codes, v[3]);
        const I value = _mm512_mask_blend_epi16(_mm512_test_epi16_mask(codes, _mm512_set1_epi16(0x40)), small, large);
        // value | (codes << 8 & 0x8000)
        return _mm512_ternarylogic_epi32(value, _mm512_slli_epi16(codes, 8), _mm512_set1_epi32(0x80008000), 0xf8);
    }
};

template <Format FORMAT>
struct ByteWords {
    using X = uint32_t;
    using Weights = PairedWeights;
    static constexpr float kUnit = 1.0f;
    static constexpr Format kFormat = FORMAT;
    static constexpr int kInputs = 2, kBytes = 2 * kPanel;

    E4m3Words e4m3;

    void begin(const uint8_t*) {}

    template <int COLUMNS, class Use>
    EM_INLINE void each(const uint8_t* step, int lane, Use use) const {
        I words[COLUMNS];
        for (int c = 0; c < COLUMNS; ++c) words[c] = decoded(step + 2 * (lane + c * L));
        use(0, words);
    }

private:
    I decoded(const uint8_t* at) const {
        const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
        if constexpr (FORMAT == Format::FP8) return e4m3(_mm512_cvtepu8_epi16(bytes));
        return from_integers(_mm512_cvtepi8_epi16(bytes));
    }

    static I from_integers(I words) {
        const F even = _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(words, 16), 16));
        const F odd = _mm512_cvtepi32_ps(_mm512_srai_epi32(words, 16));
        const I low = _mm512_srli_epi32(_mm512_castps_si512(even), 16);
        return _mm512_mask_blend_epi16(0xaaaaaaaa, low, _mm512_castps_si512(odd));
    }
};

// FP4, and INT4 with zero points or, SYMMETRIC, without.
template <Format FORMAT, bool SYMMETRIC>
struct NibbleWords {
    using X = uint32_t;
    using Weights = PairedWeights;
    static constexpr float kUnit = 1.0f;
    static constexpr Format kFormat = FORMAT;
    static constexpr int kInputs = 8, kBytes = 4 * kPanel;

    static constexpr WordTable<32> kTable = nibble_table<FORMAT, SYMMETRIC>();
    I table = _mm512_load_si512(kTable.words);
    I added[2];  // to the codes of a half

    void begin(const uint8_t* zeros) {
        if constexpr (SYMMETRIC) return;
        for (int half = 0; half < 2; ++half) {
            const I zero = _mm512_sub_epi32(_mm512_set1_epi32(16), Vec::bytes(zeros + kHalf * half));
            added[half] = _mm512_or_si512(zero, _mm512_slli_epi32(zero, 16));
        }
    }

    template <int COLUMNS, class Use>
    EM_INLINE void each(const uint8_t* step, int lane, Use use) const {
        I codes[COLUMNS], words[COLUMNS];
        for (int c = 0; c < COLUMNS; ++c) codes[c] = _mm512_loadu_si512(step + 4 * (lane + c * L));
#pragma GCC unroll 4
        for (int pair = 0; pair < 4; ++pair) {
            for (int c = 0; c < COLUMNS; ++c) {
                words[c] = _mm512_permutexvar_epi16(SYMMETRIC ? codes[c] : index(codes[c], lane / kHalf + c), table);
                codes[c] = _mm512_srli_epi32(codes[c], 4);
            }
            use(pair, words);
        }
    }

private:
    I index(I codes, int half) const {
        return _mm512_add_epi16(_mm512_and_si512(codes, _mm512_set1_epi16(15)), added[half]);
    }
};

}  // namespace expertmesh::EM_ISA
