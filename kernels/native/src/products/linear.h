// y = x W^T + b, panels shared out over the threads. Included once for each instruction set.

namespace expertmesh::EM_ISA {

template <class X>
struct LinearJob {
    const LinearCall& call;
    X* tiles;
    int64_t row_size;
    int64_t piece;  // panels of a unit

    void pack(int64_t number) {
        const Matrix& w = *call.w;
        const int rows = rows_of_tile(call.rows, number);
        float* floats = static_cast<float*>(scratch(Purpose::SUMS, row_floats(w) * sizeof(float)));
        X* tile = tiles + number * Vec::kRows * row_size;
        for (int m = 0; m < rows; ++m) {
            read_row(static_cast<Dtype>(call.x_dtype), call.x, (number * Vec::kRows + m) * call.x_stride, w, 1.0f, floats);
            place(floats, 0, padded_inputs(w), w, rows, m, tile);
        }
    }

    void multiply(int64_t unit) {
        const int64_t first = unit * piece, last = first + piece < call.w->panels ? first + piece : call.w->panels;
        for (int64_t panel = first; panel < last; ++panel) multiply_panel(panel);
    }

    void multiply_panel(int64_t panel) {
        float acc[kBlockRows * kPanel];
        for (int64_t first = 0; first < call.rows; first += kBlockRows) {
            const int64_t rows = call.rows - first < kBlockRows ? call.rows - first : kBlockRows;
            panel_product(*call.w, panel, Rows<X>{tiles + first * row_size, rows, row_size}, acc, Next(*call.w, panel + 1));
            for (int64_t m = 0; m < rows; ++m) write(panel, first + m, acc + m * kPanel);
        }
    }

    void write(int64_t panel, int64_t row, const float* sums) {
        const Dtype dtype = static_cast<Dtype>(call.y_dtype);
        for (int lane = 0; lane < kPanel; lane += L) {
            const int64_t output = panel * kPanel + lane, left = call.w->outputs - output;
            if (left <= 0) return;
            F y = Vec::load(sums + lane);
            if (call.bias != nullptr) y = Vec::add(y, Vec::load(call.bias + output));
            const int64_t at = row * call.y_stride + output;
            if (left >= L) store_as(dtype, call.y, at, y);
            else store_some(dtype, call.y, at, y, static_cast<int>(left));
        }
    }
};

template <class X>
Status run_linear(const LinearCall& call) {
    using Job = LinearJob<X>;
    const int64_t row_size = row_size_of(*call.w, static_cast<const X*>(nullptr));
    X* tiles = static_cast<X*>(scratch(Purpose::ROWS, call.rows * row_size * sizeof(X)));
    if (tiles == nullptr) return Status::NO_MEMORY;
    Job job{call, tiles, row_size, piece_of(*call.w, call.w->panels, call.threads)};
    const Phase phases[] = {
        {tiles_of(call.rows), [](void* job, int64_t unit) { static_cast<Job*>(job)->pack(unit); }},
        {(call.w->panels + job.piece - 1) / job.piece, [](void* job, int64_t unit) { static_cast<Job*>(job)->multiply(unit); }},
    };
    run_phases(call.threads, phases, 2, &job);
    return Status::OK;
}

// Whether pairs of bfloat16 are multiplied: both sides must be exact in it.
inline bool by_pairs(const Matrix& w, int32_t x_dtype) {
#if defined(__AVX512BF16__)
    const Format format = static_cast<Format>(w.format);
    return static_cast<Dtype>(x_dtype) == Dtype::BF16 && format != Format::F32 && format != Format::F16;
#else
    (void)w, (void)x_dtype;
    return false;
#endif
}

inline Status linear(const LinearCall& call) {
#if defined(__AMX_BF16__)
    if (by_pairs(*call.w, call.x_dtype) && in_blocks(*call.w)) return run_linear<Blocked>(call);
#endif
#if defined(__AVX512BF16__)
    if (by_pairs(*call.w, call.x_dtype)) return run_linear<uint32_t>(call);
#endif
    return run_linear<float>(call);
}

}  // namespace expertmesh::EM_ISA
