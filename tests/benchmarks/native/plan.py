"""What a run measures with, and what its rows share."""

import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from tests.benchmarks.harness.checkpoints import ensure
from tests.benchmarks.harness.sides import OneProcess, TransformersModel
from tests.benchmarks.harness.worker import Worker
from tests.benchmarks.llama_cpp.programs import LlamaCpp
from tests.benchmarks.native.floors import Sizes, sizes_of
from tests.benchmarks.native.limits import Limits
from tests.benchmarks.native.served import Served

T = TypeVar("T")
DTYPE = "bfloat16"
BATCHES = (1, 8, 32)
PROMPT, PREFILL, STEPS = 64, 512, 48
BLOCK = 16


@dataclass
class Plan:
    """One shape's run. Sides are started when a row first asks for them and kept for the next ones; `close` ends them.

    Args:
        shape, scale: of the checkpoint: small is for smoke tests.
        rounds: of each figure, after one that warms up.
        shards: of the cluster.
        limits: the machine's.
        llama: llama.cpp's programs, if they were built.
        baselines: whether transformers takes part.
    """

    shape: str
    scale: str
    rounds: int
    shards: int
    limits: Limits
    llama: LlamaCpp | None = None
    baselines: bool = True
    _stack: ExitStack = field(default_factory=ExitStack, init=False, repr=False)
    _kept: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def directory(self) -> Path:
        """The checkpoint, written at its first use."""
        return ensure(self.shape, self.scale)

    @cached_property
    def sizes(self) -> Sizes:
        """What a step of it reads and computes."""
        return sizes_of(self.directory)

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """Its config.json."""
        read: dict[str, Any] = json.loads((self.directory / "config.json").read_text())
        return read

    @property
    def threads(self) -> int:
        """Cores that this process may use."""
        return len(os.sched_getaffinity(0))

    @property
    def kv_tokens(self) -> int:
        """A cache for what is measured and no more."""
        return (max(BATCHES) + 1) * (max(PREFILL, PROMPT + STEPS + max(BATCHES)) + 2 * BLOCK)

    def cluster(self) -> Served:
        """The checkpoint on shards, in its own format."""
        return self.kept("cluster", lambda: self.served(self.directory))

    def served(self, directory: Path, **weights: str) -> Served:
        """A cluster with these settings of `weights`; whoever asks closes it."""
        settings: dict[str, Mapping[str, Any]] = {"router": {"kv_cache_tokens": self.kv_tokens}}
        return Served(directory, self.shards, settings | ({"weights": weights} if weights else {}))

    def one_process(self) -> Worker:
        """Our engine with one local shard."""
        return self.kept("one process", lambda: Worker(OneProcess, self.directory, DTYPE, self.kv_tokens))

    def transformers(self) -> Worker | None:
        """The baseline; None if it takes no part."""
        if not self.baselines:
            return None
        return self.kept("transformers", lambda: Worker(TransformersModel, self.directory, DTYPE))

    def kept(self, name: str, make: Any) -> Any:
        """What `make` returned at the first time; it is closed with the plan's sides."""
        if name not in self._kept:
            self._kept[name] = self._stack.enter_context(make())
        return self._kept[name]

    def close(self) -> None:
        """End all sides: rows that load the machine otherwise begin with this."""
        self._kept.clear()
        self._stack.close()
