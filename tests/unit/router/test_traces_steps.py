"""Summaries of steps that a router sends for streams that are traced."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from experts.timing.phases import CallPhases, LayerTrip
from router_service.engine.request import Event
from router_service.engine.step.forward import StepTrace
from router_service.engine.step.stage import STAGES, Stage
from router_service.engine.step.step_record import StepRecord
from router_service.protocol.messages import StepOutputs, StreamOutput, decode_to_front, encode
from router_service.router.step_summaries import INTERVAL_NS, MAX_SUMMARIES, StepSummaries, summary_of
from tests.support.mesh import Mesh, greedy
from tests.support.tiny import Tiny

MS = 10**6


@pytest.fixture
def mesh(tiny: Callable[..., Tiny]) -> Mesh:
    return Mesh(tiny("mixtral").plan, 2, "unix")


class Stepping:
    """Runs requests as a router does, one step a second of a clock of its own."""

    def __init__(self, mesh: Mesh, gap_ns: int = INTERVAL_NS) -> None:
        self.mesh, self.summaries, self.gap_ns = mesh, StepSummaries(mesh.engine.requests), gap_ns
        mesh.engine.observe = self._observe
        self.now = 0

    def _observe(self, record: object) -> None:
        self.mesh.records.append(record)  # type: ignore[arg-type]
        self.summaries.note(record)  # type: ignore[arg-type]

    def submit(self, most: int, traced: bool, **params: Any) -> int:
        key = self.mesh.submit([5, 6, 7], greedy(most, ignore_eos=True, **params), front=1)
        if traced:
            self.summaries.follow(self.mesh.engine.requests[key])
        return key

    def run(self) -> list[list[Event]]:
        steps = []
        while self.mesh.engine.requests:
            events = self.summaries.attach(self.mesh.engine.step(), self.now)
            for event in events:
                if event.finish is not None:
                    self.mesh.engine.requests.forget(event.key)
            steps.append(events)
            self.now += self.gap_ns
        return steps


def test_only_traced_streams_have_summaries_and_none_with_the_first_token(mesh: Mesh) -> None:
    with mesh:
        stepping = Stepping(mesh)
        traced, other = stepping.submit(4, traced=True), stepping.submit(4, traced=False)
        steps = stepping.run()
    had = {key: [e.summary is not None for step in steps for e in step if e.key == key] for key in (traced, other)}
    assert had == {traced: [False, True, True, True], other: [False] * 4}


def test_scores_of_a_prompt_have_no_summary_and_bring_the_first_token_none(mesh: Mesh) -> None:
    with mesh:
        stepping = Stepping(mesh)
        stepping.submit(3, traced=True, prompt_logprobs=1)
        events = [event for step in stepping.run() for event in step]
    assert [(event.token is not None, event.summary is not None) for event in events] == [
        *((False, False), (True, False), (True, True), (True, True)),
    ]


def test_routing_and_scores_of_a_prompt_are_no_first_token(tiny: Callable[..., Tiny]) -> None:
    """They come chunk by chunk before it, in events that never have a summary."""
    with Mesh(tiny("mixtral").plan, 2, max_sequences=1, token_budget=4, block_size=4) as mesh:
        stepping = Stepping(mesh)
        params = greedy(3, ignore_eos=True, prompt_logprobs=1)
        key = mesh.submit(list(range(3, 15)), params, front=1, return_routing=True)
        stepping.summaries.follow(mesh.engine.requests[key])
        events = [event for step in stepping.run() for event in step]
    assert sum(bool(event.routing) and event.token is None for event in events) == 2
    assert sum(event.prompt_logprobs is not None for event in events) == 3
    assert [event.token for event in events if event.summary] == [event.token for event in events][-2:]


def test_a_summary_is_of_the_step_whose_token_it_comes_with(mesh: Mesh) -> None:
    with mesh:
        stepping = Stepping(mesh)
        stepping.submit(2, traced=True)
        summary = stepping.run()[1][0].summary
    trips = mesh.records[-1].trace.trips
    assert summary == summary_of(mesh.records[-1])
    assert (summary.tokens, summary.rows) == (1, sum(call.rows for trip in trips for call in trip.calls))
    assert 0 < summary.exposed_seconds < summary.seconds
    assert summary.communication_share > 0


def test_a_summary_says_what_the_step_cost() -> None:
    """Of two layers alike. In each the engine waits 9 ms; in 7 of them a shard computes while shard 1 has its question.

    What is left of the wait, 1 ms of packing and 1 ms of reducing are communication.
    """
    quick = CallPhases(0, milliseconds(1, 1, 0, 1, 1, 1), 3, 4, 700, 800, 4 * MS)
    slow = CallPhases(1, milliseconds(1, 1, 1, 6, 1, 1), 2, 2, 500, 600, 10 * MS)
    trip = LayerTrip.of(0, (quick, slow), pack_ns=MS, exposed_ns=9 * MS, reduce_ns=MS, waiting_ns=MS)
    stages = dict.fromkeys(STAGES, 0) | {Stage.PACK: 2 * MS, Stage.REDUCE: 2 * MS}
    summary = summary_of(StepRecord(40 * MS, 5, 3, StepTrace(stages, [trip, replace(trip, layer=1)])))
    assert (summary.seconds, summary.exposed_seconds) == (0.040, 0.018)
    assert summary.communication_share == pytest.approx((2 * 2 + 2 + 2) / 40)
    assert (summary.slowest_shard, summary.rows, summary.tokens) == (1, 10, 8)


def milliseconds(*phases: int) -> tuple[int, ...]:
    return tuple(MS * phase for phase in phases)


def test_a_stream_has_at_most_one_a_second_and_64(mesh: Mesh) -> None:
    with mesh:
        stepping = Stepping(mesh, gap_ns=INTERVAL_NS // 4)
        stepping.submit(22, traced=True)
        events = [event for step in stepping.run() for event in step]
    assert [index for index, event in enumerate(events) if event.summary] == [1, 5, 9, 13, 17, 21]


def test_a_long_stream_has_64(tiny: Callable[..., Tiny]) -> None:
    with Mesh(tiny("mixtral").plan, 2) as mesh:
        stepping = Stepping(mesh)
        stepping.submit(MAX_SUMMARIES + 20, traced=True)
        events = [event for step in stepping.run() for event in step]
    assert sum(event.summary is not None for event in events) == MAX_SUMMARIES


def test_streams_that_have_gone_are_forgotten(tiny: Callable[..., Tiny]) -> None:
    with Mesh(tiny("mixtral").plan, 2) as mesh:
        stepping = Stepping(mesh)
        for _ in range(5):
            stepping.submit(2, traced=True)
            stepping.run()
        assert len(mesh.engine.requests) == 0  # and what is due to them with them


def test_an_output_without_extras_has_no_bytes_of_them() -> None:
    bare = StepOutputs([StreamOutput(1, [5])])
    assert decode_to_front(encode(bare)) == bare
    assert b"summary" not in encode(bare)
