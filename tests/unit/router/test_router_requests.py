"""What the engine gets of a Front's message."""

from types import SimpleNamespace
from typing import Any

from router_service.engine.request import Request
from router_service.engine.request_table import RequestTable
from router_service.protocol.messages import SamplingParams, Submit
from router_service.router.inbox import Inbox
from router_service.router.router_requests import RouterRequests
from router_service.router.step_summaries import StepSummaries

BACKBONE = SimpleNamespace(spec=SimpleNamespace(vocabulary=100))


def test_caller_priority_and_salt_reach_the_scheduler() -> None:
    taken: list[Request] = []

    def take(request: Request) -> list[Any]:
        taken.append(request)
        return [SimpleNamespace()]

    engine: Any = SimpleNamespace(
        clock=lambda: 5.0,
        requests=SimpleNamespace(new_key=lambda: 7),
        submit=take,
        backbone=BACKBONE,
        default_fallback="wait",
    )
    inbox = Inbox()
    requests = RouterRequests(engine, inbox, StepSummaries(RequestTable()))
    message = Submit(1, "a", [4, 5], SamplingParams(max_tokens=3), priority=-2, caller="ann", cache_salt=b"salt")
    requests.submit(1, message)
    inbox.run_queued(wait=False)
    (request,) = taken
    assert (request.priority, request.caller, request.cache_salt) == (-2, "ann", b"salt")
    assert (request.sequence.key, request.sequence.priority, request.sequence.caller) == (7, -2, "ann")
