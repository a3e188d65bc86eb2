// Random elements and matrices of every format, decoded by plain loops.
#include <cmath>

#include "driver.h"

namespace driver {
namespace {

uint32_t bits_of(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

float float_of(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

double half_of(uint16_t bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const double size = exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24);
    return bits & 0x8000 ? -size : size;
}

double e4m3_of(uint8_t code) {
    const int exponent = code >> 3 & 15, fraction = code & 7;
    const double size = exponent ? std::ldexp(8 + fraction, exponent - 10) : std::ldexp(fraction, -9);
    return code & 128 ? -size : size;
}

double e2m1_of(uint8_t code) {
    constexpr double sizes[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
    return code & 8 ? -sizes[code & 7] : sizes[code & 7];
}

// Half precision by its bits: any sign, exponents around 1 or denormal, any fraction.
uint16_t random_half(Random& random) {
    const uint16_t exponent = static_cast<uint16_t>(random.below(20) == 0 ? 0 : random.from(10, 15));
    return static_cast<uint16_t>((random.bits() & 0x83ff) | exponent << 10);
}

// The value of a scale of one output in a group; its bytes go to `at`, which is the group's.
double random_scale(Random& random, Scale kind, uint8_t* at, int64_t lane) {
    const float value = static_cast<float>(random.uniform(0.01, 1.5));
    switch (kind) {
        case Scale::F32: std::memcpy(at + 4 * lane, &value, 4); return value;
        case Scale::BF16: {
            const uint16_t word = static_cast<uint16_t>(bits_of(value) >> 16);
            std::memcpy(at + 2 * lane, &word, 2);
            return float_of(static_cast<uint32_t>(word) << 16);
        }
        case Scale::F16: {
            const uint16_t word = random_half(random) & 0x7fff;
            std::memcpy(at + 2 * lane, &word, 2);
            return half_of(word);
        }
        case Scale::E8M0: at[lane] = static_cast<uint8_t>(random.from(120, 128)); return std::ldexp(1.0, at[lane] - 127);
        case Scale::E4M3: at[lane] = static_cast<uint8_t>(random.from(0, 0x40)); return e4m3_of(at[lane]);
        case Scale::HALVES:
            if (lane % kHalf == 0) std::memcpy(at + 4 * (lane / kHalf), &value, 4);
            float first;
            std::memcpy(&first, at + 4 * (lane / kHalf), 4);
            return first;
        default: return 1.0;
    }
}

bool packed(Format format) { return format >= Format::FP8; }

// One random value of a row as it is published; returns what it stands for, the zero point not subtracted.
double random_value(Random& random, Format format, uint8_t* row, int64_t i) {
    switch (format) {
        case Format::F32: {
            const float value = static_cast<float>(random.uniform(-2, 2));
            std::memcpy(row + 4 * i, &value, 4);
            return value;
        }
        case Format::BF16: {
            const uint16_t word = static_cast<uint16_t>(bits_of(static_cast<float>(random.uniform(-2, 2))) >> 16);
            std::memcpy(row + 2 * i, &word, 2);
            return float_of(static_cast<uint32_t>(word) << 16);
        }
        case Format::F16: {
            const uint16_t word = random_half(random);
            std::memcpy(row + 2 * i, &word, 2);
            return half_of(word);
        }
        case Format::FP8: {
            do row[i] = static_cast<uint8_t>(random.bits());
            while ((row[i] & 0x7f) >= 0x50);
            return e4m3_of(row[i]);
        }
        case Format::INT8: row[i] = static_cast<uint8_t>(random.bits()); return static_cast<int8_t>(row[i]);
        default: {
            const uint8_t code = static_cast<uint8_t>(random.below(16));
            row[i / 2] = static_cast<uint8_t>(row[i / 2] | code << 4 * (i % 2));
            return format == Format::FP4 ? e2m1_of(code) : code;
        }
    }
}

// Scales and zero points, multiplied and subtracted in `dense`.
void scale(Random& random, bool gate_up, Weights* weights) {
    Matrix& w = weights->matrix;
    const bool four_bits = step_of(static_cast<Format>(w.format)) == 8;
    const auto kind = static_cast<Scale>(random.from(static_cast<int>(Scale::F32), static_cast<int>(Scale::HALVES)));
    w.scale = static_cast<int32_t>(kind);
    w.group = random.one_of<int64_t>({0, 16, 32, 128, 8});
    const int64_t groups = groups_of(w);
    weights->scales.assign(w.panels * groups * scale_bytes(kind), 0);
    if (four_bits && static_cast<Format>(w.format) == Format::INT4 && random.chance())
        weights->zeros.assign(w.panels * groups * kPanel, 8);
    if (random.chance())
        for (int64_t i = 0; i < 2 * w.panels; ++i) weights->outer.push_back(static_cast<float>(random.uniform(0.5, 2)));
    weights->outer.shrink_to_fit();
    for (int64_t output = 0; output < w.outputs; ++output) {
        int64_t panel, lane;
        Weights::stands(output, w.outputs, gate_up, &panel, &lane);
        for (int64_t group = 0; group < groups; ++group) {
            const int64_t number = panel * groups + group;
            double factor = random_scale(random, kind, weights->scales.data() + number * scale_bytes(kind), lane);
            if (!weights->outer.empty()) factor *= weights->outer[2 * panel + lane / kHalf];
            double zero = static_cast<Format>(w.format) == Format::INT4 ? 8 : 0;
            if (!weights->zeros.empty()) zero = weights->zeros[number * kPanel + lane] = static_cast<uint8_t>(random.below(16));
            const int64_t size = w.group ? w.group : w.inputs;
            for (int64_t i = group * size; i < w.inputs && i < (group + 1) * size; ++i) {
                double& value = weights->dense[output * w.inputs + i];
                value = (value - zero) * factor;
            }
        }
    }
}

// x's inputs in an order of their own, as with act-order: the published columns are those of the panels.
void shuffle(Random& random, Weights* weights) {
    Matrix& w = weights->matrix;
    weights->places.resize(w.inputs);
    for (int64_t i = 0; i < w.inputs; ++i) weights->places[i] = static_cast<int32_t>(i);
    for (int64_t i = w.inputs - 1; i > 0; --i) std::swap(weights->places[i], weights->places[random.below(i + 1)]);
    const Buffer<double> in_panels = weights->dense;
    for (int64_t o = 0; o < w.outputs; ++o)
        for (int64_t i = 0; i < w.inputs; ++i) weights->dense[o * w.inputs + i] = in_panels[o * w.inputs + weights->places[i]];
}

void pack(bool gate_up, Weights* weights) {
    Matrix& w = weights->matrix;
    const auto format = static_cast<Format>(w.format);
    weights->values.assign(w.panels * panel_bytes(format, w.inputs), 0);
    const int64_t parts = gate_up ? 2 : 1, rows = w.outputs / parts;
    for (int64_t part = 0; part < parts; ++part) {
        // In two pieces, as a loader does that reads a few rows at a time.
        const int64_t middle = rows / 2;
        for (int64_t piece = 0; piece < 2; ++piece) {
            const int64_t first = piece ? middle : 0, count = piece ? rows - middle : middle;
            const PackCall call{weights->published.data() + (part * rows + first) * weights->row_bytes, weights->values.data(),
                                count, first, w.inputs, weights->row_bytes, w.format, gate_up ? static_cast<int32_t>(part) : -1};
            em_pack(&call);
        }
    }
}

}  // namespace

void Weights::stands(int64_t output, int64_t outputs, bool gate_up, int64_t* panel, int64_t* lane) {
    const int64_t rows = gate_up ? outputs / 2 : outputs, part = output / rows, row = output % rows;
    *panel = row / (gate_up ? kHalf : kPanel);
    *lane = gate_up ? part * kHalf + row % kHalf : row % kPanel;
}

void fill(Random& random, Format format, int64_t outputs, int64_t inputs, bool gate_up, Weights* weights) {
    Matrix& w = weights->matrix;
    w = Matrix{};
    w.format = static_cast<int32_t>(format);
    w.outputs = outputs;
    w.inputs = inputs;
    const int64_t rows = gate_up ? outputs / 2 : outputs, lanes = gate_up ? kHalf : kPanel;
    w.panels = (rows + lanes - 1) / lanes;
    weights->row_bytes = (inputs * bytes_of_8(format) + 7) / 8;
    weights->published.assign(outputs * weights->row_bytes, 0);
    weights->dense.assign(outputs * inputs, 0);
    for (int64_t o = 0; o < outputs; ++o)
        for (int64_t i = 0; i < inputs; ++i)
            weights->dense[o * inputs + i] = random_value(random, format, weights->published.data() + o * weights->row_bytes, i);
    if (packed(format)) scale(random, gate_up, weights);
    if (packed(format) && random.below(4) == 0) shuffle(random, weights);
    pack(gate_up, weights);
    w.values = weights->values.data();
    w.scales = weights->scales.empty() ? nullptr : weights->scales.data();
    w.zeros = weights->zeros.empty() ? nullptr : weights->zeros.data();
    w.outer = weights->outer.empty() ? nullptr : weights->outer.data();
    w.places = weights->places.empty() ? nullptr : weights->places.data();
}

int64_t size_of(Dtype dtype) { return dtype == Dtype::F32 ? 4 : 2; }

double rounding(Dtype dtype) { return dtype == Dtype::F32 ? 0x1p-23 : dtype == Dtype::BF16 ? 0x1.02p-8 : 0x1.02p-11; }

double element(Dtype dtype, const void* base, int64_t at) {
    if (dtype == Dtype::F32) return static_cast<const float*>(base)[at];
    uint16_t word;
    std::memcpy(&word, static_cast<const uint8_t*>(base) + 2 * at, 2);
    return dtype == Dtype::BF16 ? float_of(static_cast<uint32_t>(word) << 16) : half_of(word);
}

Elements random_elements(Random& random, Dtype dtype, int64_t count, double size) {
    Elements made{dtype, Buffer<uint8_t>(count * size_of(dtype)), Buffer<double>(count)};
    for (int64_t i = 0; i < count; ++i) {
        const float value = static_cast<float>(random.uniform(-size, size));
        uint32_t bits = bits_of(value);
        if (dtype == Dtype::BF16) bits >>= 16;
        if (dtype == Dtype::F16) bits = random_half(random);
        std::memcpy(made.bytes.data() + i * size_of(dtype), &bits, size_of(dtype));
        made.values[i] = element(dtype, made.bytes.data(), i);
    }
    return made;
}

}  // namespace driver
