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

// The two bytes of the words of 128 codes, low ones first.
struct alignas(64) ByteTables {
    uint8_t bytes[2][128] = {};

    constexpr void set(int code, float value) {
        bytes[0][code] = word_of(value) & 255, bytes[1][code] = word_of(value) >> 8;
    }
};

// E4M3's positive codes, or the integers from 0 to 127.
template <Format FORMAT>
constexpr ByteTables byte_tables() {
    ByteTables tables;
    for (int code = 0; code < 128; ++code) {
        const int exponent = code >> 3, fraction = code & 7;
        float value = exponent ? 8.0f + fraction : 2.0f * fraction;
        for (int i = exponent; i > 0; --i) value *= 2;
        tables.set(code, FORMAT == Format::FP8 ? value * 0x1p-10f : static_cast<float>(code));
    }
    return tables;
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

template <Format FORMAT>
struct ByteWords {
    using X = uint32_t;
    using Weights = PairedWeights;
    static constexpr float kUnit = 1.0f;
    static constexpr int kColumns = 2;  // vectors of a step that are decoded together
    static constexpr Format kFormat = FORMAT;
    static constexpr int kInputs = 2, kBytes = 2 * kPanel;

    static constexpr ByteTables kTables = byte_tables<FORMAT>();
    I low[2], high[2];

    ByteWords() {
        for (int i = 0; i < 2; ++i) {
            low[i] = _mm512_load_si512(kTables.bytes[0] + 64 * i);
            high[i] = _mm512_load_si512(kTables.bytes[1] + 64 * i);
        }
    }

    void begin(const uint8_t*) {}

    // Bytes are interleaved within quarters of a register: outputs come in the order that `in_order` undoes.
    template <int COLUMNS, class Use>
    EM_INLINE void each(const uint8_t* step, int, Use use) const {
        static_assert(COLUMNS == kColumns);
        const I signs = _mm512_set1_epi8(-128);
        const I codes = _mm512_loadu_si512(step), index = FORMAT == Format::FP8 ? codes : _mm512_abs_epi8(codes);
        const I first = _mm512_permutex2var_epi8(low[0], index, low[1]);
        I second = _mm512_permutex2var_epi8(high[0], index, high[1]);
        // -128 is its own absolute value, of which a table of 128 knows nothing; 0x4300 is 128.
        if (FORMAT == Format::INT8) second = _mm512_mask_set1_epi8(second, _mm512_movepi8_mask(index), 0x43);
        second = _mm512_ternarylogic_epi32(second, codes, signs, 0xf8);  // second | (codes & signs)
        const I words[2] = {_mm512_unpacklo_epi8(first, second), _mm512_unpackhi_epi8(first, second)};
        use(0, words);
    }

    static void in_order(I& a, I& b) {
        const I to_a = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
        const I to_b = _mm512_add_epi32(to_a, _mm512_set1_epi32(8));
        const I whole = _mm512_permutex2var_epi32(a, to_a, b);
        b = _mm512_permutex2var_epi32(a, to_b, b);
        a = whole;
    }
};

// FP4, and INT4 with zero points or, SYMMETRIC, without.
template <Format FORMAT, bool SYMMETRIC>
struct NibbleWords {
    using X = uint32_t;
    using Weights = PairedWeights;
    static constexpr float kUnit = 1.0f;
    static constexpr int kColumns = 2;  // vectors of a step that are decoded together
    static constexpr Format kFormat = FORMAT;
    static constexpr int kInputs = 8, kBytes = 4 * kPanel;

    static constexpr WordTable<32> kTable = nibble_table<FORMAT, SYMMETRIC>();
    I table = _mm512_load_si512(kTable.words);
    I added[2];  // to the codes of a half

    static void in_order(I&, I&) {}

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
