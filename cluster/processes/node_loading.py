"""When a node's free memory can be divided: once every process there has loaded its weights.

A router sizes its KV cache by what is free. What others have still to load is free now and will not be, so it waits for
them. What other routers have reserved for their caches looks free as well: a page of memory is taken when it is first
written to, and a cache fills over hours. So all routers of a node divide what is free by their number. What shards may
load later, while placements change, is left free.
"""

import logging
import math
import time
from collections.abc import Callable, Collection, Sequence

from cluster.processes.service_registry import Announcement
from experts.host.log import fields

log = logging.getLogger(__name__)

# Processes that start together register within a moment; one that Ray cannot place never does.
GRACE_SECONDS = 10.0
POLL_SECONDS = 0.25


def await_loaded(
    ask: Callable[[], Sequence[Announcement]],
    node: str,
    *,
    shards: Collection[int],
    routers: int,
    seconds: float,
    go_on: Callable[[], None],
    spare: int = 0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Wait until all `shards` are ready and all routers of `node` have loaded; return how many routers share it.

    A router that is configured but has not registered is waited for only shortly after the shards are ready. So are the
    last `spare` shards, but for one that loads on `node`.

    Args:
        ask: the registry's entries, the youngest last; none while it does not answer.
        shards: those that hold experts, on any nodes.
        routers: how many are configured, the caller included.
        seconds: how long to wait in all. A router that is still loading then is waited for no longer.
        go_on: called before each look; raises if the caller has been told to end.
        spare: how many shards may be lost before an expert has no place: others hold copies of theirs.
        clock: in seconds; like `sleep` a test's own where it must not wait.

    Raises:
        TimeoutError: more than the spare shards were not ready in time.
    """
    deadline, grace_ends = clock() + seconds, math.inf
    while True:
        go_on()
        announced, now = ask(), clock()
        missing = shards_missing(announced, shards)
        if len(missing) <= spare:
            grace_ends = min(grace_ends, now + GRACE_SECONDS)
            late = now >= grace_ends
            held_up = any(where == node for where in missing.values()) if late else bool(missing)
            if not held_up and not _awaited(announced, node, 0 if late else routers):
                return sharing(announced, node, routers)
        if now >= deadline:
            return _late(announced, node, routers, seconds, were_ready=grace_ends < math.inf)
        sleep(POLL_SECONDS)


def shards_missing(announced: Sequence[Announcement], shards: Collection[int]) -> dict[int, str]:
    """The shards whose youngest process has not loaded or cannot be reached, and its node; none if there is none."""
    youngest = {one.index: one for one in announced if one.role == "shard"}
    absent = {shard: "" for shard in shards if shard not in youngest}
    found = {shard: one.node for shard, one in youngest.items() if shard in shards and one.endpoint is None}
    return absent | found


def to_be_loaded(announced: Sequence[Announcement], node: str, budget: int) -> int:
    """Bytes that the shards of `node` may still fill with experts while placements change, each up to `budget`."""
    youngest = {one.index: one for one in announced if one.role == "shard" and one.state != "drained"}
    return sum(max(0, budget - one.loaded_bytes) for one in youngest.values() if one.node == node)


def to_be_freed(announced: Sequence[Announcement], node: str, routers: int) -> int:
    """Bytes of weights on `node` of processes that others have replaced already: an update ends them soon."""
    alive = [one for one in announced if one.state != "drained"]
    youngest = {one.index: one for one in alive if one.role == "shard"}
    old = [one for one in alive if one.role == "shard" and one is not youngest[one.index]]
    old += _routers(alive)[:-routers]
    return sum(one.loaded_bytes for one in old if one.node == node)


def has_loaded(one: Announcement) -> bool:
    """Whether a process has loaded its weights; a router is ready only later, when others have as well."""
    return one.state != "loading" or 0 < one.total_bytes <= one.loaded_bytes


def sharing(announced: Sequence[Announcement], node: str, routers: int) -> int:
    """How many of the `routers` routers share `node`, at least one.

    One that has died stays listed for some seconds beside its replacement, so they are never more than are configured.
    """
    return max(1, min(routers, sum(one.node == node for one in _routers(announced))))


def _awaited(announced: Sequence[Announcement], node: str, routers: int) -> bool:
    """Whether a router has to load on `node`, or fewer than `routers` have registered."""
    alive = _routers(announced)
    return len(alive) < routers or any(one.node == node and not has_loaded(one) for one in alive)


def _routers(announced: Sequence[Announcement]) -> list[Announcement]:
    return [one for one in announced if one.role == "router" and one.state != "drained"]


def _late(announced: Sequence[Announcement], node: str, routers: int, seconds: float, were_ready: bool) -> int:
    if not were_ready:
        raise TimeoutError(f"not all shards were there within {seconds:.0f} s")
    here = sharing(announced, node, routers)
    log.warning("cache sized while others may still load", extra=fields(routers_on_node=here))
    return here
