"""What the parts of the check share: how long one may take, and what it found."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Setting:
    """Where a part runs, and whether only what takes seconds in Triton's interpreter."""

    device: torch.device
    small: bool


class Budget:
    """Seconds that a part has for itself: it ends in order before the process that runs it is ended."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._end = clock, clock() + seconds

    def spent(self) -> bool:
        """Whether nothing is left."""
        return self._clock() >= self._end


@dataclass
class Finding:
    """What a part found. `faults` fail the check; `lines` are printed; `rows` are for programs."""

    faults: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)
