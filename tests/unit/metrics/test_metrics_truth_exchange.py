"""The all-to-all series tell the truth: a cause of known size appears where it belongs, at its size, and nowhere else.

Calls with and without the cause take turns; see `tests.support.undisturbed` for how they are compared.
"""

import select
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np
import pytest
import torch

from experts.shard.server import ExpertServer
from experts.timing.phase import PHASES
from experts.timing.trips import TripCalls
from experts.transport.call import ExpertCall, pack_call, unpack_partial
from experts.transport.channel import Channel, connect
from experts.transport.frame import Kind
from router_service.metrics.shard_series import shard_series
from tests.support.exchange_rig import WAIT_S, Exchange, Rig
from tests.support.mesh import CREDENTIALS, HELLO, until
from tests.support.scrape import exposed, page, value
from tests.support.tiny import Tiny
from tests.support.undisturbed import off, undisturbed

Make = Callable[..., Tiny]

CAUSE_S = 0.02
CALLS = 8  # of a round, with and without the cause each
# Six experts, two shards: tokens 0 and 1 ask shard 0, tokens 1 and 2 shard 1.
IDS = [[0, 1], [0, 3], [4, 5]]


Calls = list[Exchange]


class Turns:
    """Calls without and with a cause, `before` and `after`, in turns; `switch(seconds)` sets the cause."""

    def __init__(self, rig: Rig, switch: Callable[[float], None]) -> None:
        self.rig = rig
        self.before: Calls = []
        self.after: Calls = []
        self._switch = switch
        rig.ask(IDS)  # what only the first call costs is no part of the comparison

    def measure(self) -> None:
        """One round. Before either call the engine has been idle as long as the cause lasts."""
        for _ in range(CALLS):
            for cause_s, calls in ((0.0, self.before), (CAUSE_S, self.after)):
                self._switch(cause_s)
                time.sleep(CAUSE_S)
                calls.append(self.rig.ask(IDS))

    def elsewhere(self, but: str, cause_ns: float) -> list[str]:
        """Complaints of phases of either shard, but one of shard 1, that are not as they were without the cause."""
        return [
            complaint
            for shard in (0, 1)
            for phase in PHASES
            if (shard, phase) != (1, but)
            for complaint in off(
                f"shard {shard}, {phase}", least(self.after, shard, phase), least(self.before, shard, phase), cause_ns
            )
        ]


def least(exchanges: Calls, shard: int, phase: str) -> int:
    return min(exchange.ns(shard, phase) for exchange in exchanges)


def hold(rig: Rig, kind: Kind) -> Callable[[float], None]:
    return lambda seconds: rig.relays[1].hold_s.update({kind: seconds})


@pytest.mark.parametrize(("kind", "phase"), [(Kind.EXPERTS, "dispatch"), (Kind.PARTIALS, "combine")])
@pytest.mark.parametrize("way", ["unix", "tcp"])
def test_a_slow_link_is_dispatch_or_combine_by_its_direction(tiny: Make, way: str, kind: Kind, phase: str) -> None:
    """Over TCP the clocks are two: their offset comes from the fast exchanges before the link became slow."""
    with Rig(tiny("mixtral").plan, way=way) as rig:
        turns = Turns(rig, hold(rig, kind))

        def wrong() -> list[str]:
            held = [rig.relays[1].held_ns[kind, one.sequence(1)] for one in turns.after]
            assert min(held) >= CAUSE_S * 1e9
            usual = least(turns.before, 1, phase)
            # The nearest, not the least: over TCP an offset learnt from slow exchanges alone is wrong either way.
            rests = [one.ns(1, phase) - ns for one, ns in zip(turns.after, held, strict=True)]
            rest = min(rests, key=lambda ns: abs(ns - usual))
            found = off(f"{phase} without what was held", rest, usual, min(held))
            return found + turns.elsewhere(phase, min(held))

        undisturbed(turns.measure, wrong)


def test_the_series_are_the_sums_of_the_calls(tiny: Make) -> None:
    with Rig(tiny("mixtral").plan) as rig:
        exchanges = [rig.ask(IDS) for _ in range(5)]
        metrics = exposed(rig.statistics)
    for shard in (0, 1):
        for phase in PHASES:
            labels = {"shard": str(shard), "phase": phase}
            expected = sum(exchange.ns(shard, phase) for exchange in exchanges) / 1e9
            assert value(metrics, "alltoall_phase_seconds_sum", **labels) == pytest.approx(expected)
            assert value(metrics, "alltoall_phase_seconds_count", **labels) == 5
    exposed_ns = sum(exchange.trip.exposed_ns for exchange in exchanges)
    assert value(metrics, "alltoall_exposed_seconds_total") == pytest.approx(exposed_ns / 1e9)
    answered = [[call.received_ns for call in one.trip.calls] for one in exchanges]
    straggled = sum(max(times) - (times[0] + times[1]) / 2 for times in answered)
    assert value(metrics, "straggler_wait_seconds_total") == pytest.approx(straggled / 1e9)


def test_a_slow_shard_is_its_own_compute_and_half_of_it_straggling(tiny: Make) -> None:
    """Of two shards' answers the slower comes half the difference behind the mean. The wait for it is compute."""
    with Rig(tiny("mixtral").plan) as rig:
        server, cause_ns = rig.servers.running[1], CAUSE_S * 1e9
        turns = Turns(rig, lambda seconds: setattr(server, "delay_s", seconds))

        def wrong() -> list[str]:
            before, after = turns.before, turns.after
            added = least(after, 1, "compute") - least(before, 1, "compute")
            behind = [difference(rig, one) / 2 for one in after]
            errors = [TripCalls([one.trip]).straggler_ns() - ns for one, ns in zip(after, behind, strict=True)]
            # An engine that is held up before it waits has less left to wait for.
            waits = [one.trip.exposed_ns - min(calm.trip.exposed_ns for calm in before) for one in after]
            return [
                *off("compute", added, cause_ns, cause_ns),
                *off(
                    "half of what the relays saw",
                    min(behind, key=lambda ns: abs(ns - cause_ns / 2)),
                    cause_ns / 2,
                    cause_ns / 2,
                ),
                *off("straggling", min(errors, key=abs), 0, cause_ns / 2),
                *off("waiting", min(abs(ns - cause_ns) for ns in waits), 0, cause_ns),
                *off("communication", communication(after), communication(before), cause_ns),
                *turns.elsewhere("compute", cause_ns),
            ]

        undisturbed(turns.measure, wrong)


def difference(rig: Rig, one: Exchange) -> int:
    """By how much shard 1's answer came behind shard 0's, as the relays saw it."""
    passed = [relay.passed_ns[Kind.PARTIALS, one.sequence(shard)] for shard, relay in enumerate(rig.relays)]
    return passed[1] - passed[0]


def communication(calls: Calls) -> int:
    """The least of the waits that expert compute does not explain."""
    return min(one.trip.exposed_ns - TripCalls([one.trip]).exposed_compute_ns() for one in calls)


def test_a_busy_shard_is_queue(tiny: Make) -> None:
    """The shard's turn is held by somebody else for a known time; the question waits for the rest of it."""
    with Rig(tiny("mixtral").plan) as rig:
        lock, freed = rig.servers.running[1].turn, list[int]()

        def hold_turn(seconds: float) -> None:
            if seconds:
                lock.acquire()
                threading.Thread(target=free_later, args=(lock, freed)).start()

        turns = Turns(rig, hold_turn)

        def wrong() -> list[str]:
            left = [end - received(one) for end, one in zip(freed, turns.after, strict=True)]
            errors = [
                one.ns(1, "queue") - ns
                for one, ns in zip(turns.after, left, strict=True)
                if ns > CAUSE_S / 2 * 1e9  # else the question came late
            ]
            usual, cause_ns = least(turns.before, 1, "queue"), CAUSE_S / 2 * 1e9
            found = off("queue without what was left", min(errors, key=abs, default=1e9), usual, cause_ns)
            return found + turns.elsewhere("queue", cause_ns)

        undisturbed(turns.measure, wrong)


def received(one: Exchange) -> int:
    """When shard 1 had the whole question."""
    return one.handle.started_ns + one.ns(1, "pack") + one.ns(1, "dispatch")


def free_later(lock: threading.Lock, freed: list[int]) -> None:
    time.sleep(2 * CAUSE_S)  # one is over before the question is asked
    freed.append(time.monotonic_ns())
    lock.release()


def test_another_routers_question_is_queue_until_it_is_answered(tiny: Make) -> None:
    with Rig(tiny("mixtral").plan, delays={1: CAUSE_S}) as rig:
        rig.ask(IDS)
        server, late = rig.servers.running[1], list[float]()
        held = server.shard.held[0][0]
        with closing(connect(server.endpoint, rig.node, CREDENTIALS, WAIT_S, hello=HELLO)) as other:

            def measure() -> None:
                other.send(Kind.EXPERTS, 1, pack_call(question(rig.hidden, held)))
                until(lambda: begun(server, other), "the other's question is being computed")
                ours = rig.ask(IDS)
                left = unpack_partial(other.receive()[1]).stamps.sent - received(ours)
                if left > CAUSE_S / 2 * 1e9:  # else our question came late
                    late.append(ours.ns(1, "queue") - left)

            undisturbed(measure, lambda: off("after its answer", min(late, default=1e9), 0, CAUSE_S / 2 * 1e9))
        assert min(late) >= 0


def begun(server: ExpertServer, asker: Channel) -> bool:
    """Whether the asker's question is being computed, or has been: who looks seldom may see only that."""
    return server.computing or bool(select.select([asker], [], [], 0)[0])


def question(hidden: int, expert: int) -> ExpertCall:
    one = np.array([expert], np.int32)
    return ExpertCall(0, torch.ones(1, hidden), np.zeros(1, np.int32), one, np.ones(1, np.float32))


@pytest.mark.parametrize("way", ["unix", "tcp"])
def test_bytes_rows_and_assignments_are_exact(tiny: Make, way: str) -> None:
    with Rig(tiny("mixtral").plan, way=way) as rig:
        for _ in range(4):
            rig.ask(IDS)
        rig.ask([[3, 4], [4, 5], [3, 5], [3, 4], [0, 4]])
        metrics = exposed(rig.statistics)
        for shard, relay in enumerate(rig.relays):
            for direction, kind in (("dispatch", Kind.EXPERTS), ("combine", Kind.PARTIALS)):
                told = value(metrics, "alltoall_bytes_total", shard=str(shard), direction=direction)
                # The relay counts a frame after it has sent it on.
                until(lambda kind=kind, relay=relay, told=told: relay.bytes[kind] >= told, "the relay has counted")
                assert told == relay.bytes[kind]
        counted = page(shard_series({shard: rig.status(shard) for shard in (0, 1)}, {"model": "m"}))
    assert [value(metrics, "alltoall_rows_total", shard=shard) for shard in "01"] == [4 * 2 + 1, 4 * 2 + 5]
    assert [value(metrics, "alltoall_assignments_total", shard=shard) for shard in "01"] == [4 * 3 + 1, 4 * 3 + 9]
    assert [value(counted, "shard_tokens_total", shard=shard) for shard in "01"] == [4 * 3 + 1, 4 * 3 + 9]


@pytest.mark.parametrize("ahead_s", [7000.0, -7000.0])
def test_an_offset_between_hosts_is_within_the_error_that_is_told(tiny: Make, ahead_s: float) -> None:
    """A link that was never fast one way cannot be told from an offset: the bound says so, and the sum stays exact."""
    # No clock is below zero, and this machine's may have started a minute ago.
    ahead_ns = int(max(ahead_s * 1e9, -time.monotonic_ns() // 2))
    # However many rounds it takes: the fastest exchange of all is then what the bound is made of.
    clocks = dict.fromkeys((0, 1), lambda: time.monotonic_ns() + ahead_ns)
    there: dict[str, Any] = {"way": "tcp", "clocks": clocks, "half_ns": 10**15}
    usual, after, errors = list[Exchange](), list[Exchange](), list[float]()
    with Rig(tiny("mixtral").plan, **there) as fast, Rig(tiny("mixtral").plan, **there) as slow:
        hold(slow, Kind.EXPERTS)(CAUSE_S)

        def measure() -> None:
            for _ in range(CALLS):
                usual.append(fast.ask(IDS))
                after.append(slow.ask(IDS))
                errors.append(slow.transport.clock_error_s(1) * 1e9)

        def held() -> list[int]:
            return [slow.relays[1].held_ns[Kind.EXPERTS, one.sequence(1)] for one in after]

        def wrong() -> list[str]:
            rest = min(under_way(one) - ns for one, ns in zip(after, held(), strict=True))
            return off("both ways without what was held", rest, min(map(under_way, usual)), CAUSE_S * 1e9)

        undisturbed(measure, wrong)
        assert errors[-1] == pytest.approx(min(map(under_way, after)) / 2, abs=1)
        for one, ns, error_ns in zip(after, held(), errors, strict=True):
            assert one.ns(1, "dispatch") >= ns - error_ns
            assert min(one.ns(1, phase) for phase in PHASES) >= 0


def under_way(one: Exchange) -> int:
    return one.ns(1, "dispatch") + one.ns(1, "combine")
