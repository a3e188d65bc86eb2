// Attention of all rows of a call: cut into tiles, which the threads claim. Included once for each instruction set.

namespace expertmesh::EM_ISA {

constexpr int64_t kMostTileRows = 8 * Vec::kRows;

template <class Keys>
struct AttentionJob {
    const AttentionCall& call;
    int64_t most_rows;      // of a tile
    int64_t most_kv_heads;  // of a tile
    int64_t* unit_start;    // [segments + 1]
    int32_t no_memory;

    int64_t group() const { return call.heads / call.kv_heads; }
    int64_t heads_of_tile() const { return group() < most_rows ? group() : most_rows; }
    int64_t parts() const { return (group() + heads_of_tile() - 1) / heads_of_tile(); }
    int64_t rows_of(int64_t segment) const { return call.row_start[segment + 1] - call.row_start[segment]; }

    int64_t tokens_of_tile(int64_t segment) const {
        const int64_t most = most_rows / heads_of_tile();
        return rows_of(segment) < most ? rows_of(segment) : most;
    }

    int64_t token_tiles(int64_t segment) const {
        return (rows_of(segment) + tokens_of_tile(segment) - 1) / tokens_of_tile(segment);
    }

    int64_t kv_heads_of_tile(int64_t segment) const {
        const int64_t fit = most_rows / (tokens_of_tile(segment) * heads_of_tile());
        const int64_t most = fit < most_kv_heads ? fit : most_kv_heads;
        return most < 1 ? 1 : most;
    }

    int64_t kv_tiles(int64_t segment) const {
        return (call.kv_heads + kv_heads_of_tile(segment) - 1) / kv_heads_of_tile(segment);
    }

    int64_t count() {
        unit_start[0] = 0;
        for (int64_t s = 0; s < call.segments; ++s)
            unit_start[s + 1] = unit_start[s] + token_tiles(s) * kv_tiles(s) * parts();
        return unit_start[call.segments];
    }

    // Smaller tiles until there are enough for the threads. How rows are cut does not change their bits.
    int64_t cut() {
        int64_t units = count();
        const int64_t wanted = call.threads > 1 ? 4 * call.threads : 1;
        while (units < wanted && (most_kv_heads > 1 || most_rows > Vec::kRows)) {
            if (most_kv_heads > 1) most_kv_heads = (most_kv_heads + 1) / 2;
            else most_rows /= 2;
            units = count();
        }
        return units;
    }

    int64_t segment_of(int64_t unit) const {
        int64_t low = 0, high = call.segments - 1;
        while (low < high) {
            const int64_t middle = (low + high + 1) / 2;
            if (unit_start[middle] <= unit) low = middle;
            else high = middle - 1;
        }
        return low;
    }

    void run(int64_t unit) {
        const int64_t segment = segment_of(unit), tiles = token_tiles(segment);
        const int64_t place = (unit - unit_start[segment]) / tiles, number = (unit - unit_start[segment]) % tiles;
        const int64_t first_token = number * tokens_of_tile(segment), tokens = rows_of(segment) - first_token;
        const int64_t first_head = place % parts() * heads_of_tile(), heads = group() - first_head;
        const int64_t first_kv_head = place / parts() * kv_heads_of_tile(segment), kv_heads = call.kv_heads - first_kv_head;
        const auto at_most = [](int64_t value, int64_t most) { return value < most ? value : most; };
        AttentionTile<Keys> tile{call,
                                 segment,
                                 call.row_start[segment] + first_token,
                                 at_most(tokens, tokens_of_tile(segment)),
                                 first_kv_head,
                                 at_most(kv_heads, kv_heads_of_tile(segment)),
                                 first_head,
                                 at_most(heads, heads_of_tile()),
                                 nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, {}};
        if (tile.take()) tile.run();
        else __atomic_store_n(&no_memory, 1, __ATOMIC_RELAXED);
    }
};

template <class Keys>
Status run_attention(const AttentionCall& call) {
    using Job = AttentionJob<Keys>;
    auto* starts = static_cast<int64_t*>(scratch(Purpose::ORDER, (call.segments + 1) * sizeof(int64_t)));
    if (starts == nullptr) return Status::NO_MEMORY;
    Job job{call, kMostTileRows, call.kv_heads, starts, 0};
    const Phase phase{job.cut(), [](void* job, int64_t unit) { static_cast<Job*>(job)->run(unit); }};
    run_phases(call.threads, &phase, 1, &job);
    return job.no_memory ? Status::NO_MEMORY : Status::OK;
}

inline Status attention(const AttentionCall& call) {
    if (static_cast<Dtype>(call.dtype) == Dtype::BF16) return run_attention<PairKeys>(call);
    return run_attention<FloatKeys>(call);
}

}  // namespace expertmesh::EM_ISA
