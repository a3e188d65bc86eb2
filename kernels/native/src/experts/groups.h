// Rows of a layer's call by expert. Included once for each instruction set.

namespace expertmesh::EM_ISA {

// The rows of one expert: `first` is the first of them among the sorted rows.
struct Group {
    int64_t expert;
    int64_t first;
    int64_t rows;
    int64_t first_tile;  // of all tiles
};

// Sorts rows by expert, stably. BAD_EXPERT and BAD_TOKEN for an index outside.
inline Status sort_rows(const ExpertsCall& call, int64_t* starts, int64_t* row_of_place) {
    const int64_t count = call.experts->count;
    for (int64_t e = 0; e <= count; ++e) starts[e] = 0;
    for (int64_t row = 0; row < call.rows; ++row) {
        const int64_t expert = call.expert_of_row[row], token = call.token_of_row[row];
        if (expert < 0 || expert >= count) return Status::BAD_EXPERT;
        if (token < 0 || token >= call.tokens) return Status::BAD_TOKEN;
        ++starts[expert + 1];
    }
    for (int64_t e = 0; e < count; ++e) starts[e + 1] += starts[e];
    for (int64_t row = 0; row < call.rows; ++row) row_of_place[starts[call.expert_of_row[row]]++] = row;
    for (int64_t e = count; e > 0; --e) starts[e] = starts[e - 1];  // each stands at its end now
    starts[0] = 0;
    return Status::OK;
}

}  // namespace expertmesh::EM_ISA
