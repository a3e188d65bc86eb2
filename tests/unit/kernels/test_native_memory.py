"""The memory that panels lie in."""

import torch

from kernels.native.memory import CHUNK, HUGE_PAGE, LINE, Arena


def test_pieces_are_zero_apart_and_on_cache_lines() -> None:
    arena = Arena()
    pieces = [arena.zeros(count) for count in (1, 64, 65, 1000, CHUNK + HUGE_PAGE, 7)]
    for number, piece in enumerate(pieces, 1):
        assert piece.data_ptr() % LINE == 0
        assert not piece.any()
        piece.fill_(number)
    assert all(bool((piece == number).all()) for number, piece in enumerate(pieces, 1))
    assert pieces[0].data_ptr() % HUGE_PAGE == pieces[4].data_ptr() % HUGE_PAGE == 0


def test_a_piece_outlives_its_arena() -> None:
    arena = Arena()
    piece = arena.copy(torch.arange(12).view(3, 4).T)
    del arena
    assert torch.equal(piece, torch.arange(12).view(3, 4).T)
    assert piece.is_contiguous()
