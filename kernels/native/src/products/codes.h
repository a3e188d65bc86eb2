// Packed values, decoded in registers to float32: exact, without their scales. Included once for each instruction set.
//
// `each` calls `use(input, vectors)` for the inputs of a step, the first one first, with COLUMNS vectors of L outputs from
// `lane` on.

namespace expertmesh::EM_ISA {

// FP4 (E2M1), codes 0 to 7 and their negatives (OCP Microscaling Formats v1.0, section 5.3.3).
alignas(64) constexpr float kE2M1[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                                         -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};

#if defined(__AVX512F__)
// Eight codes of L outputs: the even inputs' in the low half of each lane, the odd ones' in the high one.
template <Format FORMAT>
struct Nibbles {
    static constexpr float kUnit = 1.0f;
    I codes, zero;

    Nibbles() = default;
    Nibbles(I packed, I zeros) : codes(packed), zero(zeros) {}

    template <int INPUT>
    F value() const {
        const I code = Vec::template right<INPUT % 2 * 16 + INPUT / 2 * 4>(codes);
        if constexpr (FORMAT == Format::FP4) return Vec::look_up(kE2M1, code);
        else return Vec::to_float(Vec::subi(Vec::andi(code, Vec::seti(15)), zero));
    }
};
#else
// The same where no register holds 16 floats for a table: four values become bytes at once, twice those of FP4.
alignas(16) constexpr int8_t kE2M1Doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

template <Format FORMAT>
struct Nibbles {
    static constexpr float kUnit = FORMAT == Format::FP4 ? 0.5f : 1.0f;
    I even, odd;  // nibbles 0, 2, 4, 6 of each lane, and 1, 3, 5, 7

    Nibbles() = default;
    Nibbles(I packed, I zeros) : even(values(packed, zeros)), odd(values(Vec::template right<4>(packed), zeros)) {}

    template <int INPUT>
    F value() const {
        constexpr int nibble = INPUT % 2 * 4 + INPUT / 2;
        const I bytes = nibble % 2 ? odd : even;
        return Vec::to_float(Vec::template arithmetic_right<24>(Vec::template left<24 - nibble / 2 * 8>(bytes)));
    }

private:
    static I values(I packed, [[maybe_unused]] I zeros) {
        const I codes = Vec::andi(packed, Vec::seti(0x0f0f0f0f));
        if constexpr (FORMAT == Format::FP4) return Vec::look_up_bytes(kE2M1Doubled, codes);
        const I pairs = Vec::ori(zeros, Vec::template left<8>(zeros));
        return Vec::sub_bytes(codes, Vec::ori(pairs, Vec::template left<16>(pairs)));
    }
};
#endif

template <Format FORMAT>
struct FloatCodes {
    using X = float;
    using Weights = FloatWeights;  // as which they are multiplied once decoded to memory
    static constexpr int kColumns = 1;  // vectors of a step that are decoded together
    static constexpr Format kFormat = FORMAT;
    static constexpr int kInputs = FORMAT == Format::F16 ? 1 : FORMAT == Format::FP8 || FORMAT == Format::INT8 ? 2 : 8;
    static constexpr int kBytes = FORMAT == Format::FP4 || FORMAT == Format::INT4 ? 4 * kPanel : 2 * kPanel;

    // What is decoded times this is the value: it multiplies the sums.
    static constexpr float kUnit = FORMAT == Format::FP8 ? 256.0f : Nibbles<FORMAT>::kUnit;

    const uint8_t* zeros = nullptr;

    // Begins a group, whose zero points these are; null: 8.
    void begin(const uint8_t* of_group) { zeros = of_group; }

    template <int COLUMNS, class Use>
    EM_INLINE void each(const uint8_t* step, int lane, Use use) const {
        if constexpr (kInputs == 8) return nibbles<COLUMNS>(step, lane, use);
        F first[COLUMNS], second[COLUMNS];
        for (int c = 0; c < COLUMNS; ++c) bytes(step + 2 * (lane + c * L), first[c], second[c]);
        use(0, first);
        if constexpr (kInputs > 1) use(1, second);
    }

private:
    static void bytes(const uint8_t* at, F& first, F& second) {
        if constexpr (FORMAT == Format::F16) {
            first = Vec::halves(at);
        } else if constexpr (FORMAT == Format::FP8) {
            Vec::e4m3(at, first, second);
        } else {
            const I pair = Vec::words(at);
            first = Vec::to_float(Vec::template arithmetic_right<24>(Vec::template left<24>(pair)));
            second = Vec::to_float(Vec::template arithmetic_right<24>(Vec::template left<16>(pair)));
        }
    }

    template <int COLUMNS, class Use>
    EM_INLINE void nibbles(const uint8_t* step, int lane, Use use) const {
        Nibbles<FORMAT> codes[COLUMNS];
        for (int c = 0; c < COLUMNS; ++c, lane += L)
            codes[c] = Nibbles<FORMAT>(Vec::loadi(step + 4 * lane), zeros == nullptr ? Vec::seti(8) : Vec::bytes(zeros + lane));
        next<0>(codes, use);
    }

    template <int INPUT, int COLUMNS, class Use>
    EM_INLINE static void next(Nibbles<FORMAT> (&codes)[COLUMNS], Use use) {
        F values[COLUMNS];
        for (int c = 0; c < COLUMNS; ++c) values[c] = codes[c].template value<INPUT>();
        use(INPUT, values);
        if constexpr (INPUT < 7) next<INPUT + 1>(codes, use);
    }
};

}  // namespace expertmesh::EM_ISA
