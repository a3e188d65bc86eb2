// A layer's experts against a plain loop; the same bits for a token alone; indices out of range are refused.
#include <cmath>

#include "driver.h"

namespace driver {
namespace {

struct Layer {
    Buffer<Weights> gate_ups, downs;
    Buffer<Matrix> gate_up, down;
    Buffer<float> gate_up_bias, down_bias;  // in the order of the outputs
    Buffer<float> in_panels, padded;        // as the library reads them
    Experts experts{};
};

struct Rows {
    Elements x;
    int64_t tokens, stride;
    Buffer<int64_t> token, expert;
    Buffer<float> weight;
};

void add_biases(Random& random, Layer* layer) {
    Experts& e = layer->experts;
    const int64_t gate_up_panels = layer->gate_up[0].panels, down_panels = layer->down[0].panels;
    layer->in_panels.assign(e.count * gate_up_panels * kPanel, 0);
    layer->padded.assign(e.count * down_panels * kPanel, 0);
    for (int64_t n = 0; n < e.count; ++n) {
        for (int64_t o = 0; o < 2 * e.ffn; ++o) {
            int64_t panel, lane;
            Weights::stands(o, 2 * e.ffn, true, &panel, &lane);
            const float bias = static_cast<float>(random.uniform(-1, 1));
            layer->gate_up_bias.push_back(bias);
            layer->in_panels[(n * gate_up_panels + panel) * kPanel + lane] = bias;
        }
        for (int64_t o = 0; o < e.hidden; ++o) {
            const float bias = static_cast<float>(random.uniform(-1, 1));
            layer->down_bias.push_back(bias);
            layer->padded[n * down_panels * kPanel + o] = bias;
        }
    }
    e.gate_up_bias = layer->in_panels.data();
    e.down_bias = layer->padded.data();
}

void make(Random& random, Format format, Layer* layer) {
    Experts& e = layer->experts;
    e.count = random.from(1, 6);
    e.hidden = random.from(1, 80);
    e.ffn = random.from(1, 70);
    layer->gate_ups.resize(e.count);
    layer->downs.resize(e.count);
    for (int64_t n = 0; n < e.count; ++n) {
        fill(random, format, 2 * e.ffn, e.hidden, true, &layer->gate_ups[n]);
        fill(random, format, e.hidden, e.ffn, false, &layer->downs[n]);
    }
    for (const Weights& w : layer->gate_ups) layer->gate_up.push_back(w.matrix);
    for (const Weights& w : layer->downs) layer->down.push_back(w.matrix);
    e.gate_up = layer->gate_up.data();
    e.down = layer->down.data();
    e.activation = static_cast<int32_t>(random.below(2));
    e.weight_inputs = random.below(4) == 0;
    e.alpha = 1.702f;
    e.limit = 7.0f;
    if (random.chance()) add_biases(random, layer);
}

Rows some_rows(Random& random, const Experts& e, Dtype dtype) {
    Rows rows;
    rows.tokens = random.from(1, 30);
    rows.stride = e.hidden + (random.chance() ? 0 : random.from(1, 5));
    rows.x = random_elements(random, dtype, rows.tokens * rows.stride, 1.0);
    const int64_t count = random.below(8) ? random.from(0, 3 * rows.tokens) : 0;
    const bool one_takes_all = random.below(4) == 0;
    for (int64_t n = 0; n < count; ++n) {
        rows.token.push_back(random.below(rows.tokens));
        rows.expert.push_back(one_takes_all ? e.count - 1 : random.below(e.count));
        rows.weight.push_back(static_cast<float>(random.uniform(0, 1)));
    }
    return rows;
}

ExpertsCall call_of(const Layer& layer, const Rows& rows, Buffer<float>* y, bool by_row, int32_t threads) {
    const int64_t count = static_cast<int64_t>(rows.token.size());
    y->assign((by_row ? count : rows.tokens) * layer.experts.hidden, -7.0f);
    return ExpertsCall{&layer.experts, rows.x.bytes.data(), rows.token.data(), rows.expert.data(), rows.weight.data(), y->data(),
                       rows.tokens, count, rows.stride, static_cast<int32_t>(rows.x.dtype), threads, by_row};
}

Buffer<float> run(const Layer& layer, const Rows& rows, bool by_row, int32_t threads) {
    Buffer<float> y;
    const ExpertsCall call = call_of(layer, rows, &y, by_row, threads);
    CHECK(em_experts(&call) == 0, "experts failed");
    return y;
}

// A number with the most that its computation in float32 may be off.
struct Bounded {
    double value, error;
};

Bounded activation(const Experts& e, Bounded gate, Bounded up) {
    if (static_cast<Activation>(e.activation) == Activation::SILU) {
        const double silu = gate.value / (1 + std::exp(-gate.value));
        return {silu * up.value, 1.2 * gate.error * std::fabs(up.value) + up.error * std::fabs(silu) + 1e-6 * std::fabs(silu * up.value)};
    }
    const double g = std::fmin(gate.value, e.limit), u = std::fmax(-e.limit, std::fmin(up.value, e.limit)) + 1;
    const double glu = g / (1 + std::exp(-e.alpha * g));
    return {glu * u, 1.2 * gate.error * std::fabs(u) + up.error * std::fabs(glu) + 2e-6 * std::fabs(glu * u)};
}

// The hidden vector of a row.
Buffer<Bounded> hidden_of(const Layer& layer, const Rows& rows, int64_t row) {
    const Experts& e = layer.experts;
    const Weights& w = layer.gate_ups[rows.expert[row]];
    const double ulp = rounding(rows.x.dtype), factor = e.weight_inputs ? rows.weight[row] : 1.0;
    Buffer<Bounded> sums(2 * e.ffn);
    for (int64_t o = 0; o < 2 * e.ffn; ++o) {
        double sum = e.gate_up_bias ? layer.gate_up_bias[rows.expert[row] * 2 * e.ffn + o] : 0, size = std::fabs(sum);
        for (int64_t i = 0; i < e.hidden; ++i) {
            const double product = factor * rows.x.values[rows.token[row] * rows.stride + i] * w.at(o, i);
            sum += product;
            size += std::fabs(product);
        }
        sums[o] = {sum, size * (0x1p-23 * static_cast<double>(e.hidden + 8) + (e.weight_inputs ? ulp : 0)) + 1e-7};
    }
    Buffer<Bounded> hidden(e.ffn);
    for (int64_t k = 0; k < e.ffn; ++k) {
        hidden[k] = activation(e, sums[k], sums[e.ffn + k]);
        hidden[k].error += std::fabs(hidden[k].value) * ulp + 1e-7;
    }
    return hidden;
}

Buffer<Bounded> output_of(const Layer& layer, const Rows& rows, int64_t row) {
    const Experts& e = layer.experts;
    const Weights& w = layer.downs[rows.expert[row]];
    const Buffer<Bounded> hidden = hidden_of(layer, rows, row);
    const double factor = e.weight_inputs ? 1.0 : rows.weight[row];
    Buffer<Bounded> y(e.hidden);
    for (int64_t o = 0; o < e.hidden; ++o) {
        double sum = e.down_bias ? layer.down_bias[rows.expert[row] * e.hidden + o] : 0, size = std::fabs(sum), error = 0;
        for (int64_t k = 0; k < e.ffn; ++k) {
            const double product = hidden[k].value * w.at(o, k);
            sum += product;
            size += std::fabs(product);
            error += hidden[k].error * std::fabs(w.at(o, k));
        }
        y[o] = {factor * sum, factor * (error + size * 0x1p-23 * static_cast<double>(e.ffn + 8)) + 1e-6};
    }
    return y;
}

bool near(double got, Bounded wanted) { return std::fabs(got - wanted.value) <= wanted.error; }

void compare(const Layer& layer, const Rows& rows, const Buffer<float>& by_row, const Buffer<float>& y) {
    const Experts& e = layer.experts;
    Buffer<Bounded> sums(y.size(), Bounded{0, 0});
    for (size_t row = 0; row < rows.token.size(); ++row) {
        const Buffer<Bounded> wanted = output_of(layer, rows, static_cast<int64_t>(row));
        for (int64_t o = 0; o < e.hidden; ++o) {
            const double got = by_row[row * e.hidden + o];
            CHECK(near(got, wanted[o]), "format %d, hidden %d, ffn %d, row %d: %g, not %g within %g", e.gate_up[0].format,
                  static_cast<int>(e.hidden), static_cast<int>(e.ffn), static_cast<int>(row), got, wanted[o].value, wanted[o].error);
            Bounded& sum = sums[rows.token[row] * e.hidden + o];
            sum = {sum.value + wanted[o].value, sum.error + wanted[o].error + 1e-6 * std::fabs(wanted[o].value)};
        }
    }
    for (size_t i = 0; i < y.size(); ++i) CHECK(near(y[i], sums[i]), "sum of a token: %g, not %g", y[i], sums[i].value);
}

// A token's rows in a call of their own.
void check_alone(Random& random, const Layer& layer, const Rows& rows, const Buffer<float>& y) {
    const int64_t token = random.below(rows.tokens), hidden = layer.experts.hidden;
    Rows own = rows;
    own.token.clear(), own.expert.clear(), own.weight.clear();
    for (size_t row = 0; row < rows.token.size(); ++row) {
        if (rows.token[row] != token) continue;
        own.token.push_back(token);
        own.expert.push_back(rows.expert[row]);
        own.weight.push_back(rows.weight[row]);
    }
    const Buffer<float> alone = run(layer, own, false, 2);
    CHECK(std::memcmp(alone.data() + token * hidden, y.data() + token * hidden, hidden * sizeof(float)) == 0,
          "format %d: other bits alone", layer.gate_up[0].format);
}

}  // namespace

void check_experts(Random& random) {
    const auto format = static_cast<Format>(random.from(0, static_cast<int>(Format::INT4)));
    Layer layer;
    make(random, format, &layer);
    const Dtype dtype = format <= Format::F16 ? static_cast<Dtype>(format) : random.one_of({Dtype::F32, Dtype::BF16});
    const Rows rows = some_rows(random, layer.experts, dtype);
    const Buffer<float> y = run(layer, rows, false, 1), by_row = run(layer, rows, true, 3);
    compare(layer, rows, by_row, y);
    CHECK(run(layer, rows, false, 3) == y, "other bits with three threads");
    check_alone(random, layer, rows, y);
}

void check_bad_rows(Random& random) {
    Layer layer;
    make(random, Format::BF16, &layer);
    const Experts& e = layer.experts;
    Rows rows = some_rows(random, e, Dtype::BF16);
    rows.token.push_back(random.below(rows.tokens));
    rows.expert.push_back(random.below(e.count));
    rows.weight.push_back(1.0f);
    Buffer<float> y;
    const ExpertsCall call = call_of(layer, rows, &y, false, 2);
    const size_t row = random.below(static_cast<int64_t>(rows.token.size()));
    for (const int64_t bad : {int64_t{-1}, e.count, INT64_MAX, INT64_MIN}) {
        const int64_t good = rows.expert[row];
        rows.expert[row] = bad;
        CHECK(em_experts(&call) == static_cast<int32_t>(Status::BAD_EXPERT), "expert %lld was taken", static_cast<long long>(bad));
        rows.expert[row] = good;
    }
    for (const int64_t bad : {int64_t{-1}, rows.tokens, INT64_MAX, INT64_MIN}) {
        const int64_t good = rows.token[row];
        rows.token[row] = bad;
        CHECK(em_experts(&call) == static_cast<int32_t>(Status::BAD_TOKEN), "token %lld was taken", static_cast<long long>(bad));
        rows.token[row] = good;
    }
    for (const float untouched : y) CHECK(untouched == -7.0f, "a refused call has written");
}

}  // namespace driver
