"""A request that waits and cannot be in time is given up before it costs a step."""

from collections.abc import Callable

from tests.support.mesh import Mesh, greedy
from tests.support.tiny import Tiny


def test_a_waiting_request_whose_prompt_cannot_be_read_in_time_fails_in_the_queue(tiny: Callable[..., Tiny]) -> None:
    now = 0.0
    with Mesh(tiny("mixtral").plan, 2, max_sequences=1, token_budget=8) as mesh:
        mesh.engine.clock = lambda: now
        first = mesh.submit([5] * 60, greedy(4), arrived=0.0)
        mesh.engine.step()
        assert mesh.records[0].prompt_tokens == 8
        # At the speed that was measured, thousands of tokens take longer than a microsecond.
        late = mesh.submit([6] * 60, greedy(4), arrived=0.0, deadline=1e-6)
        calm = mesh.submit([7] * 60, greedy(4), arrived=0.0, deadline=3600.0)
        events = mesh.drain()
        assert [event.failure.code for event in events[late] if event.failure] == ["DEADLINE_EXCEEDED"]
        assert "even if it ran at once" in str(events[late][-1].failure)
        assert events[first][-1].finish == "length"
        assert events[calm][-1].finish == "length"
