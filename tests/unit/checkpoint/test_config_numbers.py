"""Any numbers in config.json: the checkpoint is refused in a line that names its file, or draws from finite numbers."""

import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.config import ModelConfig
from cluster.planner.model import open_model
from experts.checkpoint.errors import CheckpointError
from experts.config import ExpertsConfig, WeightsConfig
from router_service.config import EngineConfig
from router_service.engine.builder import build_engine, local_shards
from router_service.engine.request import OURSELVES, Event, Request
from router_service.protocol.messages import SamplingParams
from tests.support.mesh import CPU
from tests.support.tiny import Tiny

FAMILIES = ("mixtral", "qwen3_moe", "deepseek_v3", "llama4", "gpt_oss")
NUMBERS = st.sampled_from(
    [10**9, 10**12, 1e9, 1e12, 1e308, 5e-324, 1e-45, 1e-20, 1e6, math.nan, math.inf, -1, -1.0, 0, 0.0, 1, 2, 3, 4, 0.5]
)


def numbers_of(values: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where numbers stand, in nested objects and lists too."""
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in items:
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield *path, key
        yield from numbers_of(value, (*path, key))


def put(config: Any, path: tuple[Any, ...], value: float) -> None:
    *way, last = path
    for key in way:
        config = config[key]
    config[last] = value


@pytest.fixture(scope="module", params=FAMILIES)
def directory(
    request: pytest.FixtureRequest, tiny: Callable[..., Tiny], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    copy = tmp_path_factory.mktemp(request.param)
    shutil.copytree(tiny(request.param).path, copy, dirs_exist_ok=True)
    (copy / "good.json").write_text((copy / "config.json").read_text())
    return copy


def first_events(directory: Path) -> list[Event]:
    """Serve the checkpoint in this process, and answer one request."""
    plan = open_model(ModelConfig(checkpoint=str(directory)), WeightsConfig(), verify=True).plan
    experts, config = ExpertsConfig(1), EngineConfig(max_sequences=2, kv_cache_tokens=64, threads=1, overlap="off")
    engine = build_engine(plan, local_shards(plan, experts, torch.float32, CPU), experts, config, torch.float32, CPU)
    params = SamplingParams(max_tokens=2, ignore_eos=True, logprobs=1)
    events = engine.submit(
        Request(
            key=1,
            front=OURSELVES,
            stream=0,
            request_id="a",
            params=params,
            tokens=[3, 4, 5],
            prompt_length=3,
            return_routing=False,
            arrived=engine.clock(),
        )
    )
    while not engine.idle():
        events += engine.step()
    return events


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_checkpoint_is_refused_or_computes(directory: Path, data: st.DataObject) -> None:
    config = json.loads((directory / "good.json").read_text())
    places = sorted(numbers_of(config), key=str)
    changes = data.draw(st.dictionaries(st.sampled_from(places), NUMBERS, min_size=1, max_size=3))
    for path, value in changes.items():
        put(config, path, value)
    (directory / "config.json").write_text(json.dumps(config))
    try:
        events = first_events(directory)
    except CheckpointError as error:
        refusal = str(error)
    else:
        check_events(events)
        return
    assert str(directory) in refusal


def check_events(events: list[Event]) -> None:
    # A context of a few tokens has no place for this request.
    assert {event.failure.code for event in events if event.failure is not None} <= {"INVALID_ARGUMENT"}
    scores = [score for event in events if event.logprobs for score in (event.logprobs.chosen, *event.logprobs.top)]
    assert all(math.isfinite(score.logprob) for score in scores)
