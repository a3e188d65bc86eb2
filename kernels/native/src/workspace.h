// Memory that a thread keeps from call to call: none is allocated once the largest call has been seen.
#pragma once

#include <cstddef>

namespace expertmesh {

// What a thread keeps memory for; each purpose has a piece of its own.
enum class Purpose : int { ROWS, HIDDEN, ORDER, SUMS, DECODED, SCORES, QUERIES, KEYS, VALUES, COUNT };

// At least `bytes`, aligned to a cache line, without contents; good until the thread's next call for the same purpose.
// Null where there is no memory.
void* scratch(Purpose purpose, size_t bytes);

}  // namespace expertmesh
