"""Requests of benchmarks: greedy, and ended by their length alone."""

import time
from typing import Any

from router_service.engine.engine import Engine
from router_service.engine.request import Request
from router_service.protocol.messages import SamplingParams


def submit(engine: Engine, key: int, tokens: list[int], new_tokens: int, **params: Any) -> None:
    """Hand in a request.

    Raises:
        RuntimeError: it was refused.
    """
    sampling = SamplingParams(**{"max_tokens": new_tokens, "temperature": 0.0, "ignore_eos": True} | params)
    request = Request(
        key=key,
        front=0,
        stream=key,
        request_id="",
        params=sampling,
        tokens=list(tokens),
        prompt_length=len(tokens),
        return_routing=False,
        arrived=time.monotonic(),
    )
    if refused := engine.submit(request):
        raise RuntimeError(str(refused[0].failure))
