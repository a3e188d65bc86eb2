"""Makes a function slow by a known time."""

import time
from dataclasses import dataclass, field
from typing import Any

import pytest

CAUSE_S = 0.02


@dataclass
class Sleeper:
    """Makes a function sleep before it works, as long as it is `on`; `each_ns` is how long it slept in truth."""

    cause_s: float = CAUSE_S
    on: bool = True
    each_ns: list[int] = field(default_factory=list)

    def into(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        work = getattr(owner, name)

        def slow(*args: Any, **kwargs: Any) -> Any:
            if self.on:
                begun = time.monotonic_ns()
                time.sleep(self.cause_s)
                self.each_ns.append(time.monotonic_ns() - begun)
            return work(*args, **kwargs)

        monkeypatch.setattr(owner, name, slow)

    def take(self) -> int:
        """How long it slept since the last time."""
        slept, self.each_ns = sum(self.each_ns), []
        return slept
