"""An engine in this process that is driven step by step; its shards are local, or processes on sockets."""

import os
from itertools import count
from pathlib import Path
from typing import Any, Self

import torch

from cluster.config import ModelConfig
from cluster.planner.model import open_model
from experts.config import ExpertsConfig, WeightsConfig
from experts.transport.base import Transport
from router_service.config import EngineConfig
from router_service.engine.builder import build_engine, local_shards
from router_service.engine.request import Event
from router_service.engine.step.step_record import StepRecord
from tests.benchmarks.harness.requests import submit
from tests.benchmarks.harness.sides import Tokens

SOCKET_SECONDS = 60.0


class SteppedEngine:
    """The engine of one checkpoint; a context manager. `records` has each step's record since it was last cleared.

    Args:
        transport: shards that run already; without one they are loaded into this process.
        shards: how many there are.
        dtype: of weights and cache; the checkpoint's own unless told otherwise.
        weights: their form; dequantized unless told otherwise.
        config: settings of the engine.
    """

    def __init__(
        self,
        directory: Path,
        transport: Transport | None = None,
        shards: int = 1,
        dtype: str = "auto",
        weights: WeightsConfig | None = None,
        **config: Any,
    ) -> None:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        chosen = weights or WeightsConfig("dequantized")
        model = open_model(ModelConfig(checkpoint=str(directory), dtype=dtype), chosen)
        self.vocabulary, self.context = model.plan.spec.vocabulary, model.plan.spec.context
        self.records = list[StepRecord]()
        experts = ExpertsConfig(shards=shards, call_timeout_seconds=SOCKET_SECONDS)
        form = {"dtype": model.dtype, "device": model.device}
        transport = transport or local_shards(model.plan, experts, **form)
        self.engine = build_engine(model.plan, transport, experts, EngineConfig(**config), **form)
        self.engine.observe = self.records.append
        self._keys = count(1)

    def submit(self, tokens: Tokens, new_tokens: int, **params: Any) -> int:
        """Hand in a request that nothing but its length ends; return its key."""
        key = next(self._keys)
        submit(self.engine, key, tokens, new_tokens, **params)
        return key

    def step(self) -> list[Event]:
        """One step's events.

        Raises:
            RuntimeError: a request failed.
        """
        events = self.engine.step()
        if failure := next((event.failure for event in events if event.failure), None):
            raise RuntimeError(failure.message)
        return events

    def until_first_tokens(self, keys: list[int]) -> None:
        """Step until each of these requests has a token."""
        waiting = set(keys)
        while waiting:
            waiting -= {event.key for event in self.step()}

    def run_out(self) -> dict[int, Tokens]:
        """Step until no request is left; return the tokens of each that were drawn meanwhile."""
        drawn: dict[int, Tokens] = {}
        while not self.engine.idle():
            for event in self.step():
                assert event.token is not None
                drawn.setdefault(event.key, []).append(event.token)
        return drawn

    def give_up(self) -> None:
        """Cancel all requests."""
        for request in list(self.engine.requests):
            self.engine.cancel(request.key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.engine.pool.transport.close()
