"""Simulated accelerators: each shard's process sleeps for its calls as if a GPU of its own computed them.

Python reads this file in every process that has its directory on PYTHONPATH, so also in Ray's workers, which the
benchmark could not reach otherwise. The product knows nothing of it. `EXPERTMESH_SIMULATED_US` has three numbers, the
microseconds for a call, for each distinct expert that it touches, and for each (token, expert) pair.
"""

import os
import sys
import time
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

VARIABLE = "EXPERTMESH_SIMULATED_US"
MODULE = "experts.shard.shard"


class Slowed(Loader):
    """Loads the module of the shard, and then puts the sleep before its computation."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the module's own loader."""
        made: ModuleType | None = self._loader.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        """Run the module; from then on its shards take their time."""
        self._loader.exec_module(module)
        call_us, expert_us, pair_us = map(float, os.environ[VARIABLE].split())
        compute = module.ExpertShard.compute

        def slowed(shard: Any, call: Any) -> Any:
            begun = time.monotonic()
            result = compute(shard, call)
            distinct, pairs = len(set(call.experts_A.tolist())), len(call.experts_A)
            due = begun + (call_us + expert_us * distinct + pair_us * pairs) / 1e6
            time.sleep(max(0.0, due - time.monotonic()))
            return result

        module.ExpertShard.compute = slowed  # type: ignore[attr-defined]


class Finder(MetaPathFinder):
    """Finds the one module, whenever it is imported first."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of the shard's module with another loader; None for all others."""
        spec = PathFinder.find_spec(fullname, path, target) if fullname == MODULE else None
        if spec is not None:
            spec.loader = Slowed(spec.loader)
        return spec


if os.environ.get(VARIABLE):
    sys.meta_path.insert(0, Finder())
