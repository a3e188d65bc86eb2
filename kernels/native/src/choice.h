// Which holder of each expert is asked, so that the slowest shard is fastest. `experts/choosing.py` says how and why: this
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

// How many experts were split over several holders; -1 without memory, -2 where an id lies outside the experts.
int32_t choose(const ChooseCall& call);

}  // namespace expertmesh
