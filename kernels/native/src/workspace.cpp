#include "workspace.h"

#include <cstdlib>

namespace expertmesh {
namespace {

struct Piece {
    void* data = nullptr;
    size_t size = 0;
    ~Piece() { std::free(data); }
};

thread_local Piece pieces[static_cast<int>(Purpose::COUNT)];

}  // namespace

void* scratch(Purpose purpose, size_t bytes) {
    Piece& piece = pieces[static_cast<int>(purpose)];
    if (bytes > piece.size) {
        std::free(piece.data);
        piece.size = (bytes + 63) / 64 * 64;
        piece.data = std::aligned_alloc(64, piece.size);
        if (piece.data == nullptr) piece.size = 0;
    }
    return piece.data;
}

}  // namespace expertmesh
