// Conversions between the dtypes of activations and float32, and the functions of an activation.
// Included once for each instruction set, in its own namespace, behind the file that defines Vec.

namespace expertmesh::EM_ISA {

using F = Vec::F;
using I = Vec::I;
constexpr int L = Vec::L;

inline float float_of(uint32_t bits) {
    float value;
    __builtin_memcpy(&value, &bits, 4);
    return value;
}

inline uint32_t bits_of(float value) {
    uint32_t bits;
    __builtin_memcpy(&bits, &value, 4);
    return bits;
}

// bfloat16 as the low word of each lane: to nearest, ties to even; NaN stays NaN.
inline I to_bf16(F x) {
    const I bits = Vec::as_int(x);
    const I odd = Vec::andi(Vec::template right<16>(bits), Vec::seti(1));
    const I rounded = Vec::template right<16>(Vec::addi(bits, Vec::addi(odd, Vec::seti(0x7fff))));
    return Vec::if_nan(x, Vec::seti(0x7fc0), rounded);
}

inline F load_as(Dtype dtype, const void* base, int64_t at) {
    switch (dtype) {
        case Dtype::F32: return Vec::load(static_cast<const float*>(base) + at);
        case Dtype::BF16: return Vec::as_float(Vec::template left<16>(Vec::words(static_cast<const uint16_t*>(base) + at)));
        default: return Vec::halves(static_cast<const uint16_t*>(base) + at);
    }
}

inline void store_as(Dtype dtype, void* base, int64_t at, F x) {
    switch (dtype) {
        case Dtype::F32: Vec::store(static_cast<float*>(base) + at, x); break;
        case Dtype::BF16: Vec::store_words(static_cast<uint16_t*>(base) + at, to_bf16(x)); break;
        default: Vec::store_half(static_cast<uint16_t*>(base) + at, x);
    }
}

inline int64_t size_of(Dtype dtype) { return dtype == Dtype::F32 ? 4 : 2; }

// The last few elements of a row, fewer than a register holds: by way of a buffer.
inline F load_some(Dtype dtype, const void* base, int64_t at, int count) {
    alignas(64) uint8_t buffer[4 * L] = {};
    const int64_t size = size_of(dtype);
    __builtin_memcpy(buffer, static_cast<const uint8_t*>(base) + at * size, count * size);
    return load_as(dtype, buffer, 0);
}

inline void store_some(Dtype dtype, void* base, int64_t at, F x, int count) {
    alignas(64) uint8_t buffer[4 * L];
    const int64_t size = size_of(dtype);
    store_as(dtype, buffer, 0, x);
    __builtin_memcpy(static_cast<uint8_t*>(base) + at * size, buffer, count * size);
}

// x as it is after being written in `dtype`.
inline F rounded_to(Dtype dtype, F x) {
    if (dtype == Dtype::F32) return x;
    if (dtype == Dtype::BF16) return Vec::as_float(Vec::template left<16>(to_bf16(x)));
    alignas(64) uint16_t halves[L];
    Vec::store_half(halves, x);
    return Vec::halves(halves);
}

// e**x, within 2 units in the last place: 2**n * e**r with |r| <= ln(2) / 2, the Taylor series of degree 7 for e**r.
// Exactly 0 below -104; infinity above 88.8; NaN stays NaN.
inline F exp(F x) {
    x = Vec::max(Vec::set(-104.5f), Vec::min(Vec::set(89.0f), x));
    const F n = Vec::round(Vec::mul(x, Vec::set(1.44269504088896341f)));
    F r = Vec::fma(n, Vec::set(-0.693359375f), x);
    r = Vec::fma(n, Vec::set(2.12194440e-4f), r);
    F sum = Vec::set(1.0f / 5040);
    sum = Vec::fma(sum, r, Vec::set(1.0f / 720));
    sum = Vec::fma(sum, r, Vec::set(1.0f / 120));
    sum = Vec::fma(sum, r, Vec::set(1.0f / 24));
    sum = Vec::fma(sum, r, Vec::set(1.0f / 6));
    sum = Vec::fma(sum, r, Vec::set(0.5f));
    sum = Vec::fma(sum, r, Vec::set(1.0f));
    sum = Vec::fma(sum, r, Vec::set(1.0f));
    // 2**n in two factors: n reaches from -151 to 129, beyond what one exponent holds.
    const I whole = Vec::to_int(n), half = Vec::template arithmetic_right<1>(whole);
    const I other = Vec::subi(whole, half), bias = Vec::seti(127);
    const F first = Vec::as_float(Vec::template left<23>(Vec::addi(half, bias)));
    const F second = Vec::as_float(Vec::template left<23>(Vec::addi(other, bias)));
    return Vec::mul(Vec::mul(sum, first), second);
}

inline F sigmoid(F x) { return Vec::div(Vec::set(1.0f), Vec::add(Vec::set(1.0f), exp(Vec::sub(Vec::zero(), x)))); }

}  // namespace expertmesh::EM_ISA
