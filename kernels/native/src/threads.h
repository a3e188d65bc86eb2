// Work shared out over threads by claiming units: nobody waits for a thread that has not woken up yet.
#pragma once

#include <cstdint>

namespace expertmesh {

// A phase begins when every unit of the one before is done.
struct Phase {
    int64_t units;
    void (*run)(void* context, int64_t unit);
};

constexpr int kMostPhases = 4;

// Runs the phases on the calling thread and up to `threads - 1` others. Results must not depend on who runs a unit.
// Where another call is using the other threads, this one runs alone.
void run_phases(int threads, const Phase* phases, int count, void* context);

}  // namespace expertmesh
