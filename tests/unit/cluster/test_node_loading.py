"""When a router may size its cache: who is waited for, for how long, and how many share what is free."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from cluster.processes.service_registry import Announcement
from experts.transport.address import Endpoint

with warnings.catch_warnings(action="ignore"):  # Serve's own, of pydantic
    from cluster.processes.node_loading import GRACE_SECONDS, POLL_SECONDS, await_loaded, has_loaded, to_be_freed

AT = Endpoint(role="shard", index=0, replica="", incarnation=1, node="", host="", port=1, unix_name="", pid=1)
SHARDS = [Announcement("shard", index, f"s{index}", node, 1, "ready", 5, 5, AT) for index, node in enumerate("ab")]
HALF = replace(SHARDS[1], state="loading", loaded_bytes=2, endpoint=None)
FRONT = Announcement("front", 0, "f", "a", 1, "loading")
SECONDS = 600.0


def router(replica: str, node: str = "a", loaded: int = 9, state: str = "loading") -> Announcement:
    return Announcement("router", 0, replica, node, 1, state, loaded, 9)


ME = router("me")


class Waiting:
    """A clock that only sleeping moves; the registry's answers follow one another, the last one stays."""

    def __init__(self, *answers: Sequence[Announcement]) -> None:
        self.answers = list(answers)
        self.now = 100.0

    @property
    def waited(self) -> float:
        return self.now - 100.0

    def ask(self) -> Sequence[Announcement]:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def routers(self, configured: int, go_on: Callable[[], None] = lambda: None, spare: int = 0) -> int:
        return await_loaded(
            self.ask,
            "a",
            shards=range(2),
            routers=configured,
            seconds=SECONDS,
            go_on=go_on,
            spare=spare,
            clock=lambda: self.now,
            sleep=self.sleep,
        )


@pytest.mark.parametrize(
    "first",
    [
        [ME],
        [ME, SHARDS[0]],
        [ME, SHARDS[0], HALF],
        [ME, *SHARDS, replace(HALF, replica="new")],  # a replacement's bytes are still to come
        [],  # the registry does not answer
    ],
)
def test_it_waits_for_all_shards(first: list[Announcement]) -> None:
    waiting = Waiting(first, first, [ME, FRONT, *SHARDS])
    assert waiting.routers(1) == 1
    assert waiting.waited == 2 * POLL_SECONDS


def test_routers_wait_for_each_others_weights_but_not_until_they_are_ready() -> None:
    registered = replace(ME, replica="you", loaded_bytes=0, total_bytes=0)
    answers = [[*SHARDS, ME, one] for one in (registered, router("you", loaded=8), router("you"))]
    waiting = Waiting(*answers)
    assert waiting.routers(2) == 2
    assert waiting.waited == 2 * POLL_SECONDS


def test_a_router_elsewhere_may_load_on_and_takes_nothing_from_here() -> None:
    waiting = Waiting([*SHARDS, ME, router("you", node="b", loaded=1)])
    assert (waiting.routers(2), waiting.waited) == (1, 0.0)


def test_a_replacement_waits_for_nobody() -> None:
    """The one that it replaces is listed for some seconds more."""
    others = [router("x", state="ready"), router("y", node="b", state="ready"), router("dead", state="ready")]
    waiting = Waiting([*SHARDS, *others, ME])
    assert (waiting.routers(3), waiting.waited) == (3, 0.0)
    waiting = Waiting([*SHARDS, router("dead", state="ready"), ME])
    assert (waiting.routers(1), waiting.waited) == (1, 0.0)
    waiting = Waiting([*SHARDS, router("gone", state="drained"), router("x", state="draining"), ME])
    assert (waiting.routers(2), waiting.waited) == (2, 0.0)


def test_a_router_that_cannot_be_placed_costs_a_short_grace_once_the_shards_are_ready() -> None:
    waiting = Waiting(*[[ME, SHARDS[0]]] * 8, [ME, *SHARDS])
    assert waiting.routers(2) == 1
    assert waiting.waited == 8 * POLL_SECONDS + GRACE_SECONDS


def test_shards_that_never_come_are_an_error() -> None:
    waiting = Waiting([ME, SHARDS[0]])
    with pytest.raises(TimeoutError, match="not all shards were there within 600 s"):
        waiting.routers(1)
    assert waiting.waited == SECONDS


def test_a_shard_whose_experts_have_copies_holds_up_nobody_for_long() -> None:
    """Lost on a node that is gone, or loading elsewhere: what it takes is not taken from here."""
    for gone in ([], [HALF]):
        waiting = Waiting([ME, SHARDS[0], *gone])
        assert waiting.routers(1, spare=1) == 1
        assert waiting.waited == GRACE_SECONDS


def test_a_copy_that_loads_here_is_waited_for() -> None:
    loading = replace(HALF, node="a")
    waiting = Waiting(*[[ME, SHARDS[0], loading]] * 100, [ME, *SHARDS])
    assert waiting.routers(1, spare=1) == 1
    assert waiting.waited == 100 * POLL_SECONDS


def test_more_shards_than_the_copies_make_up_for_are_an_error() -> None:
    with pytest.raises(TimeoutError):
        Waiting([ME]).routers(1, spare=1)


def test_a_router_that_never_loads_holds_up_no_other() -> None:
    waiting = Waiting([ME, *SHARDS, router("you", loaded=1)])
    assert waiting.routers(2) == 2
    assert waiting.waited == SECONDS


def test_it_ends_at_once_when_it_is_told_to() -> None:
    waiting = Waiting([ME])

    def go_on() -> None:
        if waiting.waited:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        waiting.routers(1, go_on)
    assert waiting.waited == POLL_SECONDS


def test_who_has_loaded() -> None:
    assert has_loaded(ME)
    assert has_loaded(router("x", state="ready", loaded=0))
    assert not has_loaded(router("x", loaded=8))
    assert not has_loaded(FRONT)


def test_what_an_update_is_about_to_end_is_freed() -> None:
    """Processes that others have replaced, on this node, as far as they have not ended by themselves."""
    old = [*SHARDS, router("old", state="ready")]
    assert to_be_freed([*old], "a", routers=1) == 0
    new = [replace(SHARDS[0], replica="n0", loaded_bytes=6), ME]
    assert to_be_freed([*old, *new], "a", routers=1) == 5 + 9
    assert to_be_freed([*old, *new], "a", routers=2) == 5
    assert to_be_freed([*old, *new], "b", routers=1) == 0
    assert to_be_freed([*old, replace(SHARDS[1], replica="n1")], "b", routers=1) == 5
    drained = replace(SHARDS[0], state="drained", endpoint=None)
    assert to_be_freed([drained, *new], "a", routers=1) == 0
