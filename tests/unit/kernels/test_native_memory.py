"""The memory that panels lie in."""

import threading

import psutil
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels.native.free_ranges import FreeRanges
from kernels.native.memory import CHUNK, HUGE_PAGE, LINE, Arena

MIB = 1 << 20


def resident() -> int:
    return int(psutil.Process().memory_info().rss)


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


def test_what_is_free_is_handed_out_again_as_zeros() -> None:
    arena = Arena()
    first, second, third = (arena.zeros(1000).fill_(7) for _ in range(3))
    place = second.data_ptr()
    view = second[10:20]
    del second
    assert arena.zeros(1000).data_ptr() != place  # a view of it is left
    del view
    again = arena.zeros(1000)
    assert (again.data_ptr(), bool(again.any())) == (place, False)
    assert bool((first == 7).all() and (third == 7).all())


def test_free_memory_goes_back_to_the_system() -> None:
    """Every other piece of a chunk, and the chunk when nothing of it is used."""
    arena = Arena()
    before = resident()
    pieces = [arena.zeros(6 * MIB).fill_(1) for _ in range(40)]
    assert resident() - before > 220 * MIB
    del pieces[::2]
    assert resident() - before < 170 * MIB  # at least a huge page of each three is whole
    assert all(int(piece.min()) == int(piece.max()) == 1 for piece in pieces)
    pieces.clear()
    assert resident() - before < 20 * MIB


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 3 * MIB)), max_size=30))
def test_no_two_pieces_share_a_byte(orders: list[tuple[bool, int]]) -> None:
    """In any order of taking and letting go."""
    arena, pieces = Arena(), dict[int, torch.Tensor]()
    for number, (lets_go, count) in enumerate(orders):
        if lets_go and pieces:
            del pieces[sorted(pieces)[count % len(pieces)]]
        else:
            piece = arena.zeros(count)
            assert not piece.any()
            pieces[number] = piece.fill_(number % 251)
    assert all(bool((piece == number % 251).all()) for number, piece in pieces.items())


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9)), max_size=40))
def test_free_ranges_are_what_was_added_and_not_taken(orders: list[tuple[int, int]]) -> None:
    free, expected, owner = FreeRanges[str](), set(range(100)), "owner"
    free.add(owner, 0, 100)
    used: list[tuple[int, int]] = []
    for choice, size in orders:
        if choice > 15 and used:
            start, end = used.pop(choice % len(used))
            whole = free.add(owner, start, end)
            expected |= set(range(start, end))
            assert expected.issuperset(range(whole.start, whole.end))
            assert not {whole.start - 1, whole.end} & expected
        elif (found := free.take(size)) is not None:
            assert expected.issuperset(range(found.start, found.end))
            assert found.end - found.start == size
            expected -= set(range(found.start, found.end))
            used.append((found.start, found.end))
    assert len(free) == sum(place - 1 not in expected for place in expected)


def test_any_threads_take_and_let_go() -> None:
    arena, faults = Arena(), list[int]()

    def work(number: int) -> None:
        mine: list[torch.Tensor] = []
        for turn in range(300):
            mine.append(arena.zeros(1 + (turn * 997 + number) % 50_000).fill_(number))
            if turn % 3 == 2:
                del mine[0]
            faults.extend(turn for piece in mine[-3:] if not bool((piece == number).all()))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
