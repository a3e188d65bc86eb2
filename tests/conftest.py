"""Tiny checkpoints that the tests of one process share.

torch keeps to one thread, because tests run side by side. For the same reason hypothesis does not judge how long an
example took to draw or to run: that is the machine's matter.
"""

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.support.tiny import Tiny, make_tiny

pytest_plugins = ["pytester", "tests.rerun", "tests.e2e.shared_ray"]

torch.set_num_threads(1)
settings.register_profile(
    "shared machine", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("shared machine")


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    """`serve` handles signals until its process ends; here the process goes on, and must still obey them."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Tiny]:
    """`tiny(family, **config)`: a checkpoint with its oracle, made once for each configuration."""
    made: dict[str, Tiny] = {}

    def get(family: str, **changes: Any) -> Tiny:
        key = f"{family} {sorted(changes.items(), key=str)}"
        if key not in made:
            made[key] = make_tiny(tmp_path_factory.mktemp(family), family, **changes)
        return made[key]

    return get
