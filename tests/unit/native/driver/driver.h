// What the parts of the driver share: random numbers, buffers of exact sizes, matrices beside their dense values.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "calls.h"
#include "pack.h"

extern "C" {
int32_t em_has(const char* name);
int32_t em_select(const char* name);
void em_pack(const expertmesh::PackCall* call);
void em_take(const expertmesh::TakeCall* call);
int32_t em_linear(const expertmesh::LinearCall* call);
int32_t em_experts(const expertmesh::ExpertsCall* call);
}

namespace driver {

using namespace expertmesh;

// SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
class Random {
public:
    explicit Random(uint64_t seed) : state_(seed) {}

    uint64_t bits() {
        uint64_t z = state_ += 0x9e3779b97f4a7c15u;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        return z ^ z >> 31;
    }
    int64_t below(int64_t count) { return static_cast<int64_t>(bits() % static_cast<uint64_t>(count)); }
    int64_t from(int64_t lowest, int64_t highest) { return lowest + below(highest - lowest + 1); }
    bool chance() { return below(2) == 0; }
    double uniform(double low, double high) { return low + (high - low) * static_cast<double>(bits() >> 11) * 0x1p-53; }
    template <class T>
    T one_of(std::initializer_list<T> values) { return values.begin()[below(static_cast<int64_t>(values.size()))]; }

private:
    uint64_t state_;
};

// A vector's memory ends where its values do only if its capacity is exact: it is made in its size and never grows.
template <class T>
using Buffer = std::vector<T>;

// Elements of a dtype, with their values.
struct Elements {
    Dtype dtype;
    Buffer<uint8_t> bytes;
    Buffer<double> values;
};

Elements random_elements(Random& random, Dtype dtype, int64_t count, double size);
double element(Dtype dtype, const void* base, int64_t at);
int64_t size_of(Dtype dtype);
// Half a unit in the last place, and a little.
double rounding(Dtype dtype);

// A matrix in panels, and what it holds: `dense` is [outputs][inputs].
struct Weights {
    Matrix matrix{};
    Buffer<double> dense;
    Buffer<uint8_t> published;  // [outputs][row_bytes]
    int64_t row_bytes = 0;
    Buffer<uint8_t> values, scales, zeros;
    Buffer<float> outer;
    Buffer<int32_t> places;

    double at(int64_t output, int64_t input) const { return dense[output * matrix.inputs + input]; }
    // Where an output stands: its panel and its lane.
    static void stands(int64_t output, int64_t outputs, bool gate_up, int64_t* panel, int64_t* lane);
};

void fill(Random& random, Format format, int64_t outputs, int64_t inputs, bool gate_up, Weights* weights);

// Ends the program with the message where a check fails.
#define CHECK(condition, ...)                                                \
    do {                                                                     \
        if (!(condition)) {                                                  \
            std::fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition); \
            std::fprintf(stderr, __VA_ARGS__);                               \
            std::fprintf(stderr, "\n");                                      \
            std::exit(1);                                                    \
        }                                                                    \
    } while (false)

void check_linear(Random& random);
void check_experts(Random& random);
void check_bad_rows(Random& random);

}  // namespace driver
