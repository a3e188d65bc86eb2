// A product for each head with a matrix of its own, in one call. Included once for each instruction set.

namespace expertmesh::EM_ISA {

template <class X>
struct HeadsJob {
    const HeadsCall& call;
    X* tiles;
    int64_t row_size;

    LinearCall of_head(int64_t head) const {
        const int64_t size = size_of(static_cast<Dtype>(call.dtype));
        const auto* x = static_cast<const uint8_t*>(call.x) + head * call.x_head * size;
        auto* y = static_cast<uint8_t*>(call.y) + head * call.y_head * size;
        return LinearCall{call.w + head, x, nullptr, y, call.rows, call.x_row, call.y_row, call.dtype, call.dtype, 1};
    }

    void pack(int64_t unit) {
        const int64_t head = unit / tiles_of(call.rows);
        const LinearCall linear = of_head(head);
        LinearJob<X>{linear, tiles + head * call.rows * row_size, row_size, 1}.pack(unit % tiles_of(call.rows));
    }

    void multiply(int64_t unit) {
        const int64_t head = unit / call.w->panels;
        const LinearCall linear = of_head(head);
        LinearJob<X>{linear, tiles + head * call.rows * row_size, row_size, 1}.multiply(unit % call.w->panels);
    }
};

template <class X>
Status run_heads(const HeadsCall& call) {
    using Job = HeadsJob<X>;
    const int64_t row_size = padded_inputs(*call.w) / inputs_of_x(static_cast<const X*>(nullptr));
    X* tiles = static_cast<X*>(scratch(Purpose::ROWS, call.heads * call.rows * row_size * sizeof(X)));
    if (tiles == nullptr) return Status::NO_MEMORY;
    Job job{call, tiles, row_size};
    const Phase phases[] = {
        {call.heads * tiles_of(call.rows), [](void* job, int64_t unit) { static_cast<Job*>(job)->pack(unit); }},
        {call.heads * call.w->panels, [](void* job, int64_t unit) { static_cast<Job*>(job)->multiply(unit); }},
    };
    run_phases(call.threads, phases, 2, &job);
    return Status::OK;
}

inline Status heads(const HeadsCall& call) {
#if defined(__AVX512BF16__)
    if (by_pairs(*call.w, call.dtype)) return run_heads<uint32_t>(call);
#endif
    return run_heads<float>(call);
}

}  // namespace expertmesh::EM_ISA
