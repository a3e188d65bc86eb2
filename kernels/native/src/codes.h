// Packed values, decoded in registers to float32: exact, without their scales. Included once for each instruction set.
//
// `each` calls `use(input, vectors)` for the inputs of a step, the first one first, with COLUMNS vectors of L outputs from
// `lane` on.

namespace expertmesh::EM_ISA {

// FP4 (E2M1), codes 0 to 7 and their negatives (OCP Microscaling Formats v1.0, section 5.3.3).
alignas(64) constexpr float kE2M1[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                                         -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};

template <Format FORMAT>
struct FloatCodes {
    using X = float;
    using Weights = FloatWeights;  // as which they are multiplied once decoded to memory
    static constexpr Format kFormat = FORMAT;
    static constexpr int kInputs = FORMAT == Format::F16 ? 1 : FORMAT == Format::FP8 || FORMAT == Format::INT8 ? 2 : 8;
    static constexpr int kBytes = FORMAT == Format::FP4 || FORMAT == Format::INT4 ? 4 * kPanel : 2 * kPanel;

    // What is decoded times this is the value: it multiplies the sums.
    static constexpr float kUnit = FORMAT == Format::FP8 ? 256.0f : 1.0f;

    const uint8_t* zeros = nullptr;

    // Begins a group, whose zero points these are; null: 8.
    void begin(const uint8_t* of_group) { zeros = of_group; }

    template <int COLUMNS, class Use>
    void each(const uint8_t* step, int lane, Use use) const {
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
    void nibbles(const uint8_t* step, int lane, Use use) const {
        I even[COLUMNS], odd[COLUMNS], zero[COLUMNS];
        for (int c = 0; c < COLUMNS; ++c, lane += L) {
            even[c] = Vec::loadi(step + 4 * lane);
            odd[c] = Vec::template right<16>(even[c]);
            zero[c] = zeros == nullptr ? Vec::seti(8) : Vec::bytes(zeros + lane);
        }
#pragma GCC unroll 4
        for (int input = 0; input < 8; input += 2) {
            half_step(input, even, zero, use);
            half_step(input + 1, odd, zero, use);
        }
    }

    template <int COLUMNS, class Use>
    static void half_step(int input, I (&codes)[COLUMNS], const I (&zero)[COLUMNS], Use use) {
        F values[COLUMNS];
        for (int c = 0; c < COLUMNS; ++c) {
            values[c] = nibble(codes[c], zero[c]);
            codes[c] = Vec::template right<4>(codes[c]);
        }
        use(input, values);
    }

    static F nibble(I codes, [[maybe_unused]] I zero) {
        if constexpr (FORMAT == Format::FP4) return Vec::look_up(kE2M1, codes);
        else return Vec::to_float(Vec::subi(Vec::andi(codes, Vec::seti(15)), zero));
    }
};

}  // namespace expertmesh::EM_ISA
