"""Which router a prompt goes to: the guess of what is cached, the load in the same unit, and the choice."""

from collections import OrderedDict
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_service.front.routing.backlog import STREAM_TOKENS, Backlog
from router_service.front.routing.prefix_affinity import PrefixAffinity, PrefixMemory, rendezvous
from router_service.front.routing.prefix_chain import BLOCK_TOKENS, PrefixChain

PLENTY = 1 << 20
# Few different tokens and lengths about whole blocks, so that prefixes are often equal.
PIECES = st.lists(st.sampled_from([[7] * 32, [8] * 32, [9] * 64, [1]]), max_size=8)
TOKENS = PIECES.map(lambda pieces: list(chain.from_iterable(pieces)))
SALTS = st.sampled_from([b"", b"a", b"b" * 16])


def blocks(*numbers: int, rest: int = 0) -> list[int]:
    """Tokens of one whole block for each number, and `rest` more."""
    return [number for number in numbers for _ in range(BLOCK_TOKENS)] + [0] * rest


def best(affinity: PrefixAffinity, prefix: PrefixChain, backlogs: dict[int, int]) -> int:
    return min(backlogs, key=lambda router: affinity.rank(router, prefix, backlogs[router]))


@given(SALTS, TOKENS, SALTS, TOKENS)
def test_hashes_are_equal_as_far_as_salt_and_tokens_are(
    salt: bytes, one: list[int], other_salt: bytes, other: list[int]
) -> None:
    first, second = PrefixChain(salt, one), PrefixChain(other_salt, other)
    for n, (mine, theirs) in enumerate(zip(first.digests, second.digests, strict=False), start=1):
        end = n * BLOCK_TOKENS
        assert (mine == theirs) == (salt == other_salt and one[:end] == other[:end])
    assert len(first.digests) == len(one) // BLOCK_TOKENS


@given(st.lists(TOKENS, max_size=5))
def test_tokens_may_come_in_pieces(pieces: list[list[int]]) -> None:
    grown = PrefixChain(b"s")
    for piece in pieces:
        grown.extend(piece)
    whole = PrefixChain(b"s", list(chain.from_iterable(pieces)))
    assert (grown.digests, len(grown), grown.first) == (whole.digests, len(whole), whole.first)


def test_the_longest_match_is_chosen_among_equally_busy_routers() -> None:
    affinity = PrefixAffinity()
    affinity.remember(1, PrefixChain(b"", blocks(1)), PLENTY)
    affinity.remember(2, PrefixChain(b"", blocks(1, 2, 3)), PLENTY)
    affinity.remember(3, PrefixChain(b"", blocks(1, 2)), PLENTY)
    prefix = PrefixChain(b"", blocks(1, 2, 3, 4, rest=5))
    assert [affinity.saved(router, prefix) for router in (1, 2, 3, 4)] == [64, 192, 128, 0]
    assert best(affinity, prefix, dict.fromkeys((1, 2, 3, 4), 10)) == 2


def test_a_router_that_is_busier_by_more_than_it_saves_is_not_chosen() -> None:
    affinity = PrefixAffinity()
    affinity.remember(1, PrefixChain(b"", blocks(1, 2)), PLENTY)
    prefix = PrefixChain(b"", blocks(1, 2, 3))
    assert best(affinity, prefix, {1: 127, 2: 0}) == 1
    assert best(affinity, prefix, {1: 129, 2: 0}) == 2


def test_another_salt_matches_nothing() -> None:
    affinity = PrefixAffinity()
    affinity.remember(1, PrefixChain(b"ann", blocks(1, 2)), PLENTY)
    assert affinity.saved(1, PrefixChain(b"bob", blocks(1, 2))) == 0


@given(
    st.dictionaries(st.integers(0, (1 << 64) - 1), st.integers(0, 3), min_size=1, max_size=6), TOKENS, st.integers(0, 3)
)
def test_without_a_match_the_least_busy_is_chosen_and_fronts_agree(
    backlogs: dict[int, int], tokens: list[int], turn: int
) -> None:
    prefix = PrefixChain(b"", tokens)
    chosen = best(PrefixAffinity(), prefix, backlogs)
    assert backlogs[chosen] == min(backlogs.values())
    order = list(backlogs)
    turned = {router: backlogs[router] for router in order[turn:] + order[:turn]}
    assert best(PrefixAffinity(), prefix, turned) == chosen


@given(st.sets(st.integers(0, (1 << 64) - 1), min_size=2, max_size=6), st.binary(max_size=8))
def test_a_router_that_goes_moves_only_what_it_had(routers: set[int], key: bytes) -> None:
    chosen = min(routers, key=lambda router: rendezvous(router, key))
    gone = min(routers - {chosen})
    assert min(routers - {gone}, key=lambda router: rendezvous(router, key)) == chosen


def test_prompts_spread_over_equally_busy_routers() -> None:
    backlogs = dict.fromkeys((11, 22, 33), 0)
    chosen = [best(PrefixAffinity(), PrefixChain(b"", [n]), backlogs) for n in range(300)]
    assert all(chosen.count(router) > 60 for router in backlogs)


@given(st.lists(TOKENS, max_size=12), st.integers(1, 5), TOKENS)
def test_a_memory_keeps_the_latest_blocks(seen: list[list[int]], capacity: int, asked: list[int]) -> None:
    memory, model = PrefixMemory(capacity), OrderedDict[bytes, None]()
    for tokens in seen:
        memory.remember(PrefixChain(b"", tokens))
        for digest in reversed(PrefixChain(b"", tokens).digests):
            model.pop(digest, None)
            model[digest] = None
    kept = list(model)[-capacity:]
    assert len(memory) == len(kept)
    digests = PrefixChain(b"", asked).digests
    known = next((n for n, digest in enumerate(digests) if digest not in kept), len(digests))
    assert memory.matched(PrefixChain(b"", asked)) == known * BLOCK_TOKENS


def test_of_a_prefix_too_long_for_the_cache_the_beginning_is_remembered() -> None:
    affinity = PrefixAffinity()
    affinity.remember(1, PrefixChain(b"", blocks(1, 2, 3)), cache_tokens=2 * BLOCK_TOKENS)
    assert affinity.saved(1, PrefixChain(b"", blocks(1, 2, 3))) == 2 * BLOCK_TOKENS


def test_a_router_without_a_prefix_cache_and_one_that_is_gone_save_nothing() -> None:
    affinity, prefix = PrefixAffinity(), PrefixChain(b"", blocks(1))
    affinity.remember(1, prefix, cache_tokens=0)
    affinity.remember(2, prefix, PLENTY)
    affinity.remember(3, prefix, PLENTY)
    affinity.keep({1, 3})
    assert [affinity.saved(router, prefix) for router in (1, 2, 3)] == [0, 0, 64]
    assert len(affinity) == 1


def test_a_backlog_is_prompts_to_compute_and_open_streams() -> None:
    backlog = Backlog()
    backlog.begin(1, 1000)
    backlog.begin(2, 500)
    assert backlog.tokens == 1500 + 2 * STREAM_TOKENS
    backlog.computed(1)
    backlog.computed(1)
    assert backlog.tokens == 500 + 2 * STREAM_TOKENS
    backlog.end(2)
    backlog.end(2)
    backlog.computed(2)
    assert backlog.tokens == STREAM_TOKENS
    backlog.end(1)
    assert backlog.tokens == 0


@given(st.lists(st.tuples(st.sampled_from(["begin", "computed", "end"]), st.integers(0, 3), st.integers(0, 99))))
def test_a_backlog_never_drifts(events: list[tuple[str, int, int]]) -> None:
    backlog, model = Backlog(), dict[int, int]()
    for kind, stream, tokens in events:
        if kind == "begin" and stream not in model:
            backlog.begin(stream, tokens)
            model[stream] = tokens
        elif kind == "computed":
            backlog.computed(stream)
            model |= {stream: 0} if stream in model else {}
        elif kind == "end":
            backlog.end(stream)
            model.pop(stream, None)
        assert backlog.tokens == sum(model.values()) + STREAM_TOKENS * len(model)


@pytest.mark.parametrize("length", [0, 63, 64, 65])
def test_short_prompts_have_a_first_block_too(length: int) -> None:
    assert PrefixChain(b"", [5] * length).first != PrefixChain(b"", [6] * (length + 1)).first
