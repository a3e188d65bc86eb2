// Work on the elements of rows between the products: norms and activations, rounded where torch rounds.
// Included once for each instruction set.
//
// A row's last elements go through the same vectors as the others. torch takes scalar functions there, whose results
// differ: which elements come last would depend on the number of rows.

namespace expertmesh::EM_ISA {

constexpr int64_t kRowsOfUnit = 8;

// f(at, count) for every vector of a row; the last may have fewer elements than L.
template <class Function>
void for_vectors(int64_t size, Function f) {
    for (int64_t i = 0; i < size; i += L) f(i, static_cast<int>(size - i < L ? size - i : L));
}

inline F load_part(Dtype dtype, const void* base, int64_t at, int count) {
    return count == L ? load_as(dtype, base, at) : load_some(dtype, base, at, count);
}

inline void store_part(Dtype dtype, void* base, int64_t at, F x, int count) {
    if (count == L) store_as(dtype, base, at, x);
    else store_some(dtype, base, at, x, count);
}

// 1 / sqrt(mean(x^2) + eps) of `size` elements.
inline float inverse_norm(Dtype dtype, const void* x, int64_t at, int64_t size, float eps) {
    F sum = Vec::zero();
    for_vectors(size, [&](int64_t i, int count) {
        const F value = load_part(dtype, x, at + i, count);
        sum = Vec::fma(value, value, sum);
    });
    return 1.0f / __builtin_sqrtf(Vec::sum(sum) / static_cast<float>(size) + eps);
}

// y = x / rms(x), rounded, times the weight, rounded; or rounded once at the end.
inline void norm_row(Dtype dtype, const void* x, int64_t at, const void* weight, void* y, int64_t to, int64_t size,
                     float eps, bool round_last) {
    const F scale = Vec::set(inverse_norm(dtype, x, at, size, eps));
    for_vectors(size, [&](int64_t i, int count) {
        F value = Vec::mul(load_part(dtype, x, at + i, count), scale);
        if (weight != nullptr) {
            if (!round_last) value = rounded_to(dtype, value);
            value = Vec::mul(value, load_part(dtype, weight, i, count));
        }
        store_part(dtype, y, to + i, value, count);
    });
}

struct NormJob {
    const NormCall& call;

    void run(int64_t unit) const {
        const Dtype dtype = static_cast<Dtype>(call.dtype);
        const int64_t first = unit * kRowsOfUnit, last = first + kRowsOfUnit < call.rows ? first + kRowsOfUnit : call.rows;
        for (int64_t row = first; row < last; ++row) {
            norm_row(dtype, call.x, row * call.x_row, call.weight, call.y, row * call.size, call.size, call.eps,
                     call.round_last);
        }
    }
};

struct GatedJob {
    const GatedCall& call;

    void run(int64_t unit) const {
        const Dtype dtype = static_cast<Dtype>(call.dtype);
        const int64_t first = unit * kRowsOfUnit, last = first + kRowsOfUnit < call.rows ? first + kRowsOfUnit : call.rows;
        for (int64_t row = first; row < last; ++row) {
            for_vectors(call.size, [&](int64_t i, int count) {
                const F gate = load_part(dtype, call.x, row * call.x_row + i, count);
                const F up = load_part(dtype, call.x, row * call.x_row + call.size + i, count);
                const F active = rounded_to(dtype, Vec::mul(gate, sigmoid(gate)));
                store_part(dtype, call.y, row * call.size + i, Vec::mul(active, up), count);
            });
        }
    }
};

template <class Job>
void run_rows(const Job& job, int64_t rows, int64_t size, int32_t threads) {
    // A thread that must be woken costs more than a few rows.
    const int32_t some = rows * size < (1 << 15) ? 1 : threads;
    const Phase phase{(rows + kRowsOfUnit - 1) / kRowsOfUnit,
                      [](void* job, int64_t unit) { static_cast<const Job*>(job)->run(unit); }};
    run_phases(some, &phase, 1, const_cast<Job*>(&job));
}

inline Status norm(const NormCall& call) {
    run_rows(NormJob{call}, call.rows, call.size, call.threads);
    return Status::OK;
}

inline Status gated(const GatedCall& call) {
    run_rows(GatedJob{call}, call.rows, call.size, call.threads);
    return Status::OK;
}

inline Status sigmoids(const SigmoidCall& call) {
    const Dtype dtype = static_cast<Dtype>(call.dtype);
    for_vectors(call.count, [&](int64_t i, int count) {
        store_part(dtype, call.y, i, sigmoid(load_part(dtype, call.x, i, count)), count);
    });
    return Status::OK;
}

}  // namespace expertmesh::EM_ISA
