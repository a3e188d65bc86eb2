// Packed values, decoded in registers to float32: exact, without their scales. Included once for each instruction set.
//
// `each` calls `use(input, vector)` for the inputs of a step, with L outputs from `lane` on, the first input first.

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

    const uint8_t* zeros = nullptr;

    // Begins a group, whose zero points these are; null: 8.
    void begin(const uint8_t* of_group) { zeros = of_group; }

    template <class Use>
    void each(const uint8_t* step, int lane, Use use) const {
        if constexpr (FORMAT == Format::F16) {
            use(0, Vec::halves(step + 2 * lane));
        } else if constexpr (FORMAT == Format::FP8) {
            const I pair = Vec::words(step + 2 * lane);
            use(0, from_e4m3(Vec::template left<24>(pair)));
            use(1, from_e4m3(Vec::template left<16>(pair)));
        } else if constexpr (FORMAT == Format::INT8) {
            const I pair = Vec::words(step + 2 * lane);
            use(0, Vec::to_float(Vec::template arithmetic_right<24>(Vec::template left<24>(pair))));
            use(1, Vec::to_float(Vec::template arithmetic_right<24>(Vec::template left<16>(pair))));
        } else {
            nibbles(step, lane, use);
        }
    }

private:
    template <class Use>
    void nibbles(const uint8_t* step, int lane, Use use) const {
        const I zero = zeros == nullptr ? Vec::seti(8) : Vec::bytes(zeros + lane);
        I even = Vec::loadi(step + 4 * lane), odd = Vec::template right<16>(even);
#pragma GCC unroll 4
        for (int input = 0; input < 8; input += 2) {
            use(input, nibble(even, zero));
            use(input + 1, nibble(odd, zero));
            even = Vec::template right<4>(even);
            odd = Vec::template right<4>(odd);
        }
    }

    static F nibble(I codes, [[maybe_unused]] I zero) {
        if constexpr (FORMAT == Format::FP4) return Vec::look_up(kE2M1, codes);
        else return Vec::to_float(Vec::subi(Vec::andi(codes, Vec::seti(15)), zero));
    }
};

}  // namespace expertmesh::EM_ISA
