// Which holder of each expert is asked, so that the slowest shard is fastest. `experts/division/choosing.py` says how and why: this
// decides the same, to the last tie.
#pragma once

#include <cstdint>

namespace expertmesh {

// Expert e is held by the shards holders[starts[e]] ... holders[starts[e + 1] - 1].
struct ChooseCall {
    const int64_t* ids;      // [count] chosen experts, negative: lost; null: `pairs` are given
    const int32_t* starts;   // [experts + 1]
    const int32_t* holders;  // [starts[experts]]
    const double* call;      // [shards] a shard's time for a call,
    const double* expert;    // for each expert that it touches,
    const double* pair;      // for each (token, expert) pair
    const int32_t* ranks;    // [shards] the lowest of an expert's holders are asked
    int32_t* pairs;          // [experts]
    int32_t* shard_of;       // [experts] out: who is asked for most of its pairs, -1: nobody needs it
    int32_t* given;          // [starts[experts]] out: the pairs of each holder
    int64_t count;
    int32_t experts;
    int32_t shards;
};

// A batch's pairs in the order in which they are asked: by shard, by block (the experts that the same shards hold), by
// expert, by token. A part is what one shard is asked for of one block; a run is all that one shard is asked for.
struct DivideCall {
    const ChooseCall* choice;
    const int32_t* blocks;  // [experts]
    const float* weights;   // [count]
    int64_t* places;        // [count] out: where each pair stands, from 1 on, 0: it is lost
    int64_t* order;         // [count] out: which pair stands where
    int64_t* tokens;        // [count] out: the tokens whose rows are sent, ascending, run by run
    int32_t* rows;          // [count] out: which of its run's rows a pair needs
    int32_t* experts;       // [count] out
    float* sorted;          // [count] out: the weights
    int32_t* parts;         // [starts[experts]][3] out: shard, block, pairs up to its end
    int32_t* runs;          // [shards][3] out: rows, experts, parts up to its end
    int32_t part_count;     // out
    int32_t run_count;      // out
    int32_t width;          // experts per token
};

// How many experts were split over several holders; -1 without memory, -2 where an id lies outside the experts.
int32_t choose(const ChooseCall& call);

// The same, and divides by it.
int32_t divide(DivideCall& call);

}  // namespace expertmesh
