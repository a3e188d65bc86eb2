// A layer's experts for rows in any order, in one call: gate-up with the activation, down, and the weighted sum.
// Included once for each instruction set.
//
// Rows are sorted by expert. A unit of gate-up is some panels of one expert, a unit of down some panels of all of them:
// it adds up its outputs of every token by ascending expert, so that no two threads add to the same number.

namespace expertmesh::EM_ISA {

template <class X>
struct ExpertsJob {
    const ExpertsCall& call;
    Group* groups;
    int64_t group_count;
    int64_t* row_of_place;  // the sorted rows
    X* tiles;
    X* hidden_tiles;
    int64_t row_size;
    int64_t hidden_size;
    int64_t gate_up_piece;  // panels of a unit
    int64_t down_piece;

    const Experts& experts() const { return *call.experts; }
    Dtype dtype() const { return static_cast<Dtype>(call.x_dtype); }
    int64_t gate_up_panels() const { return experts().gate_up[0].panels; }

    void pack(int64_t unit) {
        int64_t at = 0;
        while (at + 1 < group_count && groups[at + 1].first_tile <= unit) ++at;
        const Group& group = groups[at];
        const Matrix& w = experts().gate_up[group.expert];
        const int64_t number = unit - group.first_tile;
        const int rows = rows_of_tile(group.rows, number);
        float* floats = static_cast<float*>(scratch(Purpose::SUMS, row_floats(w) * sizeof(float)));
        X* tile = tiles + (group.first + number * Vec::kRows) * row_size;
        for (int m = 0; m < rows; ++m) {
            const int64_t row = row_of_place[group.first + number * Vec::kRows + m];
            const float weight = experts().weight_inputs ? call.weight_of_row[row] : 1.0f;
            read_row(dtype(), call.x, call.token_of_row[row] * call.x_stride, w, weight, floats);
            place(floats, 0, padded_inputs(w), w, rows, m, tile);
        }
    }

    int64_t gate_up_units() const { return (gate_up_panels() + gate_up_piece - 1) / gate_up_piece; }

    void gate_up(int64_t unit) {
        const int64_t number = unit / gate_up_units(), first = unit % gate_up_units() * gate_up_piece;
        const int64_t last = first + gate_up_piece < gate_up_panels() ? first + gate_up_piece : gate_up_panels();
        for (int64_t panel = first; panel < last; ++panel) gate_up_panel(groups[number], panel);
    }

    void gate_up_panel(const Group& group, int64_t panel) {
        const Matrix& w = experts().gate_up[group.expert];
        const float* bias = experts().gate_up_bias;
        if (bias != nullptr) bias += (group.expert * gate_up_panels() + panel) * kPanel;
        float acc[kBlockRows * kPanel];
        for (int64_t first = 0; first < group.rows; first += kBlockRows) {
            const int64_t rows = group.rows - first < kBlockRows ? group.rows - first : kBlockRows;
            panel_product(w, panel, Rows<X>{tiles + (group.first + first) * row_size, rows, row_size}, acc,
                          Next(w, panel + 1));
            for (int64_t m = 0; m < rows; ++m) activate(group, panel, first + m, acc + m * kPanel, bias);
        }
    }

    // Writes 16 elements of a row's hidden vector where the down product reads them.
    void activate(const Group& group, int64_t panel, int64_t row, float* sums, const float* bias) {
        for (int lane = 0; lane < kHalf; lane += L) {
            F gate = Vec::load(sums + lane), up = Vec::load(sums + kHalf + lane);
            if (bias != nullptr) {
                gate = Vec::add(gate, Vec::load(bias + lane));
                up = Vec::add(up, Vec::load(bias + kHalf + lane));
            }
            Vec::store(sums + lane, rounded_to(dtype(), activation(gate, up)));
        }
        // What the padding of codes and of scales for many outputs comes to is no zero, and neither is down's own.
        for (int64_t lane = experts().ffn - panel * kHalf; lane < kHalf; ++lane) sums[lane] = 0.0f;
        const Matrix& down = experts().down[group.expert];
        const int64_t tile = row / Vec::kRows, begin = panel * kHalf;
        const int rows = rows_of_tile(group.rows, tile), m = static_cast<int>(row % Vec::kRows);
        X* out = hidden_tiles + (group.first + tile * Vec::kRows) * hidden_size;
        const int64_t padded = padded_inputs(down), end = begin + kHalf < padded ? begin + kHalf : padded;
        if (begin < end) place(sums, begin, end, down, rows, m, out);
    }

    F activation(F gate, F up) const {
        if (static_cast<Activation>(experts().activation) == Activation::SILU) return Vec::mul(Vec::mul(gate, sigmoid(gate)), up);
        const F limit = Vec::set(experts().limit), lowest = Vec::set(-experts().limit);
        gate = Vec::min(limit, gate);
        up = Vec::add(Vec::max(lowest, Vec::min(limit, up)), Vec::set(1.0f));
        return Vec::mul(Vec::mul(sigmoid(Vec::mul(gate, Vec::set(experts().alpha))), gate), up);
    }

    // Some panels of every expert, one expert after the other.
    void down(int64_t unit) {
        const int64_t panels = experts().down[0].panels, first = unit * down_piece;
        const int64_t last = first + down_piece < panels ? first + down_piece : panels;
        if (!call.by_row) clear(first * kPanel, last * kPanel);
        for (int64_t g = 0; g < group_count; ++g) {
            const Matrix& w = experts().down[groups[g].expert];
            const Next then(experts().down[groups[g + 1 < group_count ? g + 1 : g].expert], first);
            for (int64_t panel = first; panel < last; ++panel)
                down_panel(groups[g], panel, panel + 1 < last ? Next(w, panel + 1) : then);
        }
    }

    void clear(int64_t begin, int64_t end) {
        const int64_t width = experts().hidden, columns = (end < width ? end : width) - begin;
        for (int64_t t = 0; t < call.tokens; ++t) __builtin_memset(call.y + t * width + begin, 0, columns * sizeof(float));
    }

    void down_panel(const Group& group, int64_t panel, const Next& next) {
        const int64_t width = experts().hidden, column = panel * kPanel;
        const int lanes = static_cast<int>(width - column < kPanel ? width - column : kPanel);
        float acc[kBlockRows * kPanel];
        for (int64_t first = 0; first < group.rows; first += kBlockRows) {
            const int64_t rows = group.rows - first < kBlockRows ? group.rows - first : kBlockRows;
            const Rows<X> x{hidden_tiles + (group.first + first) * hidden_size, rows, hidden_size};
            panel_product(experts().down[group.expert], panel, x, acc, next);
            for (int64_t m = 0; m < rows; ++m) add(group, first + m, column, lanes, acc + m * kPanel);
        }
    }

    void add(const Group& group, int64_t place, int64_t column, int lanes, float* sums) {
        const int64_t row = row_of_place[group.first + place];
        const float* bias = experts().down_bias;
        if (bias != nullptr) bias += group.expert * experts().down[0].panels * kPanel + column;
        const F weight = Vec::set(experts().weight_inputs ? 1.0f : call.weight_of_row[row]);
        float* y = call.y + (call.by_row ? row : call.token_of_row[row]) * experts().hidden + column;
        for (int lane = 0; lane < lanes; lane += L) {
            F value = Vec::load(sums + lane);
            if (bias != nullptr) value = Vec::add(value, Vec::load(bias + lane));
            value = Vec::mul(value, weight);
            const int count = lanes - lane;
            if (count >= L) {
                Vec::store(y + lane, call.by_row ? value : Vec::add(Vec::load(y + lane), value));
            } else {
                if (!call.by_row) value = Vec::add(load_some(Dtype::F32, y, lane, count), value);
                store_some(Dtype::F32, y, lane, value, count);
            }
        }
    }
};

template <class X>
Status run_experts(const ExpertsCall& call) {
    using Job = ExpertsJob<X>;
    const Experts& experts = *call.experts;
    const int64_t row_size = row_size_of(experts.gate_up[0], static_cast<const X*>(nullptr));
    const int64_t hidden_size = row_size_of(experts.down[0], static_cast<const X*>(nullptr));
    const size_t index_bytes = (experts.count + 1 + call.rows) * sizeof(int64_t);
    auto* starts = static_cast<int64_t*>(scratch(Purpose::ORDER, index_bytes + experts.count * sizeof(Group)));
    auto* tiles = static_cast<X*>(scratch(Purpose::ROWS, call.rows * row_size * sizeof(X) + 64));
    auto* hidden = static_cast<X*>(scratch(Purpose::HIDDEN, call.rows * hidden_size * sizeof(X) + 64));
    if (starts == nullptr || tiles == nullptr || hidden == nullptr) return Status::NO_MEMORY;
    int64_t* order = starts + experts.count + 1;
    if (const Status status = sort_rows(call, starts, order); status != Status::OK) return status;
    auto* groups = reinterpret_cast<Group*>(order + call.rows);
    int64_t group_count = 0, tile_count = 0;
    for (int64_t e = 0; e < experts.count; ++e) {
        const int64_t rows = starts[e + 1] - starts[e];
        if (rows == 0) continue;
        groups[group_count++] = Group{e, starts[e], rows, tile_count};
        tile_count += tiles_of(rows);
    }
    Job job{call, groups, group_count, order, tiles, hidden, row_size, hidden_size,
            piece_of(experts.gate_up[0], group_count * experts.gate_up[0].panels, call.threads),
            piece_of(experts.down[0], experts.down[0].panels, call.threads)};
    const int64_t down_units = (experts.down[0].panels + job.down_piece - 1) / job.down_piece;
    const Phase phases[] = {
        {tile_count, [](void* job, int64_t unit) { static_cast<Job*>(job)->pack(unit); }},
        {group_count * job.gate_up_units(), [](void* job, int64_t unit) { static_cast<Job*>(job)->gate_up(unit); }},
        {down_units, [](void* job, int64_t unit) { static_cast<Job*>(job)->down(unit); }},
    };
    run_phases(call.threads, phases, 3, &job);
    return Status::OK;
}

inline Status experts(const ExpertsCall& call) {
#if defined(__AVX512BF16__)
    if (by_pairs(call.experts->gate_up[0], call.x_dtype) && by_pairs(call.experts->down[0], call.x_dtype)) {
#if defined(__AMX_BF16__)
        bool all = true;
        for (int64_t e = 0; e < call.experts->count; ++e) all &= in_blocks(call.experts->gate_up[e]) && in_blocks(call.experts->down[e]);
        if (all) return run_experts<Blocked>(call);
#endif
        return run_experts<uint32_t>(call);
    }
#endif
    return run_experts<float>(call);
}

}  // namespace expertmesh::EM_ISA
