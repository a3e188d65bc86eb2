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

struct TurnJob {
    const TurnCall& call;
    mutable int32_t no_memory;

    Dtype dtype() const { return static_cast<Dtype>(call.dtype); }

    // A unit is the heads of a few rows.
    void run(int64_t unit) const {
        float* row = static_cast<float*>(scratch(Purpose::SUMS, (call.size + 2 * L) * sizeof(float)));
        if (row == nullptr) {
            __atomic_store_n(&no_memory, 1, __ATOMIC_RELAXED);
            return;
        }
        const int64_t first = unit * kRowsOfUnit, last = first + kRowsOfUnit < call.rows ? first + kRowsOfUnit : call.rows;
        for (int64_t r = first; r < last; ++r) {
            for (int64_t head = 0; head < call.heads; ++head) {
                read(r * call.x_row + head * call.x_head, head, row);
                rotate(row, r, (r * call.heads + head) * call.size);
            }
        }
    }

    // A head's elements, normalized, the first of all pairs before the second.
    void read(int64_t at, int64_t head, float* out) const {
        const F scale = call.weight == nullptr ? Vec::set(1.0f) : Vec::set(inverse_norm(dtype(), call.x, at, call.size, call.eps));
        float lanes[L];
        for_vectors(call.size, [&](int64_t i, int count) {
            F value = load_part(dtype(), call.x, at + i, count);
            if (call.weight != nullptr) {
                const F weight = load_part(dtype(), call.weight, head * call.size + i, count);
                value = rounded_to(dtype(), Vec::mul(rounded_to(dtype(), Vec::mul(value, scale)), weight));
            }
            Vec::store(call.interleaved ? lanes : out + i, value);
            if (call.interleaved)
                for (int k = 0; k < count; ++k) out[(i + k) / 2 + (i + k) % 2 * (call.size / 2)] = lanes[k];
        });
    }

    void rotate(const float* row, int64_t r, int64_t to) const {
        const int64_t half = call.size / 2;
        const Dtype angles = static_cast<Dtype>(call.angle_dtype);
        for_vectors(half, [&](int64_t i, int count) {
            const F first = Vec::load(row + i), second = Vec::load(row + half + i);
            const int64_t at = r * call.size + i;
            const auto product = [&](F x, const void* table, int64_t place) {
                return rounded_to(angles, Vec::mul(x, load_part(angles, table, place, count)));
            };
            const F low = Vec::sub(product(first, call.cosines, at), product(second, call.sines, at));
            const F high = Vec::add(product(second, call.cosines, at + half), product(first, call.sines, at + half));
            store_part(dtype(), call.y, to + i, low, count);
            store_part(dtype(), call.y, to + half + i, high, count);
        });
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

inline Status turn(const TurnCall& call) {
    const TurnJob job{call, 0};
    run_rows(job, call.rows, call.heads * call.size, call.threads);
    return job.no_memory ? Status::NO_MEMORY : Status::OK;
}

inline Status sigmoids(const SigmoidCall& call) {
    const Dtype dtype = static_cast<Dtype>(call.dtype);
    for_vectors(call.count, [&](int64_t i, int count) {
        store_part(dtype, call.y, i, sigmoid(load_part(dtype, call.x, i, count)), count);
    });
    return Status::OK;
}

}  // namespace expertmesh::EM_ISA
