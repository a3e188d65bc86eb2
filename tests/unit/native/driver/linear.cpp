// y = x W^T + b against a plain loop, the same bits for a row alone and for any number of threads; rows taken out again.
#include <cmath>

#include "driver.h"

namespace driver {
namespace {

struct Case {
    Weights w;
    Elements x;
    Buffer<float> bias;
    Dtype y_dtype;
    int64_t rows, x_stride, y_stride;
};

Buffer<uint8_t> run(const Case& one, int64_t first, int64_t rows, int32_t threads) {
    const int64_t size = size_of(one.y_dtype), used = (rows - 1) * one.y_stride + one.w.matrix.outputs;
    Buffer<uint8_t> y(used * size, 0xa5);
    // A copy of its own for x: what lies behind the last row must not be read.
    const int64_t x_size = size_of(one.x.dtype), count = (rows - 1) * one.x_stride + one.w.matrix.inputs;
    const auto begin = one.x.bytes.begin() + first * one.x_stride * x_size;
    const Buffer<uint8_t> x(begin, begin + count * x_size);
    const LinearCall call{&one.w.matrix, x.data(), one.bias.empty() ? nullptr : one.bias.data(), y.data(), rows, one.x_stride,
                          one.y_stride, static_cast<int32_t>(one.x.dtype), static_cast<int32_t>(one.y_dtype), threads};
    CHECK(em_linear(&call) == 0, "linear failed");
    return y;
}

void compare(const Case& one, const Buffer<uint8_t>& y) {
    const Matrix& w = one.w.matrix;
    for (int64_t m = 0; m < one.rows; ++m) {
        for (int64_t o = 0; o < w.outputs; ++o) {
            double sum = one.bias.empty() ? 0 : one.bias[o], size = std::fabs(sum);
            for (int64_t i = 0; i < w.inputs; ++i) {
                const double product = one.x.values[m * one.x_stride + i] * one.w.at(o, i);
                sum += product;
                size += std::fabs(product);
            }
            const double got = element(one.y_dtype, y.data(), m * one.y_stride + o);
            const double most = size * static_cast<double>(w.inputs + 8) * 0x1p-23 + std::fabs(sum) * rounding(one.y_dtype) + 1e-7;
            CHECK(std::fabs(got - sum) <= most, "format %d, scale %d, group %d, rows %d, inputs %d, outputs %d: [%d][%d] is %g, not %g",
                  w.format, w.scale, static_cast<int>(w.group), static_cast<int>(one.rows), static_cast<int>(w.inputs),
                  static_cast<int>(w.outputs), static_cast<int>(m), static_cast<int>(o), got, sum);
        }
    }
}

void check_take(Random& random, const Weights& w, bool gate_up) {
    Buffer<int64_t> numbers(random.from(1, 5));
    for (int64_t& number : numbers) number = random.below(w.matrix.outputs);
    Buffer<uint8_t> out(numbers.size() * w.row_bytes);
    const TakeCall call{&w.matrix, numbers.data(), out.data(), static_cast<int64_t>(numbers.size()), gate_up};
    em_take(&call);
    for (size_t n = 0; n < numbers.size(); ++n)
        CHECK(std::memcmp(out.data() + n * w.row_bytes, w.published.data() + numbers[n] * w.row_bytes, w.row_bytes) == 0,
              "row %d comes out differently", static_cast<int>(numbers[n]));
}

// What is written between the rows would be another's.
void check_gaps(const Case& one, const Buffer<uint8_t>& y) {
    const int64_t size = size_of(one.y_dtype);
    for (int64_t m = 0; m + 1 < one.rows; ++m)
        for (int64_t at = (m * one.y_stride + one.w.matrix.outputs) * size; at < (m + 1) * one.y_stride * size; ++at)
            CHECK(y[at] == 0xa5, "row %d is too long", static_cast<int>(m));
}

}  // namespace

void check_linear(Random& random) {
    Case one;
    const auto format = static_cast<Format>(random.from(0, static_cast<int>(Format::INT4)));
    const int64_t inputs = random.below(8) ? random.from(1, 150) : random.from(2000, 2300);
    const bool floats = format <= Format::F16;
    fill(random, format, random.from(1, 70), inputs, false, &one.w);
    one.rows = random.below(6) ? random.from(1, 40) : random.from(150, 260);
    one.x_stride = inputs + (random.chance() ? 0 : random.from(1, 9));
    one.y_stride = one.w.matrix.outputs + (random.chance() ? 0 : random.from(1, 9));
    const auto dtype = floats ? static_cast<Dtype>(format) : static_cast<Dtype>(random.below(3));
    one.x = random_elements(random, dtype, one.rows * one.x_stride, 1.5);
    // A sum of many products of codes can be beyond half precision.
    one.y_dtype = random.one_of({Dtype::F32, Dtype::BF16, floats ? dtype : Dtype::F32});
    if (one.y_dtype == Dtype::F16 && inputs > 1000) one.y_dtype = Dtype::F32;
    if (random.chance())
        for (int64_t o = 0; o < one.w.matrix.panels * kPanel; ++o) one.bias.push_back(static_cast<float>(random.uniform(-1, 1)));
    one.bias.shrink_to_fit();
    const Buffer<uint8_t> y = run(one, 0, one.rows, 1);
    compare(one, y);
    check_gaps(one, y);
    CHECK(run(one, 0, one.rows, 3) == y, "other bits with three threads");
    const int64_t row = random.below(one.rows), size = size_of(one.y_dtype);
    const Buffer<uint8_t> alone = run(one, row, 1, 2);
    CHECK(std::memcmp(alone.data(), y.data() + row * one.y_stride * size, alone.size()) == 0, "format %d: other bits alone",
          one.w.matrix.format);
    if (floats) check_take(random, one.w, false);
    if (floats) {
        Weights halves;
        fill(random, format, 2 * random.from(1, 40), random.from(1, 30), true, &halves);
        check_take(random, halves, true);
    }
}

}  // namespace driver
