"""Experts that a shard takes over and gives up while it computes.

What a shard holds is a snapshot for each layer (`HeldLayer`). Experts are loaded beside it, by a thread of low priority
at a bounded rate, and only when all are there and have been tried does the shard compute by new snapshots. A call has
the snapshot that it began with, and the matrices of experts that stay are the same in both: no bit of any answer
depends on what comes and goes, and nothing waits.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from traceback import clear_frames

import numpy as np
import torch

from experts.host.background import run_behind
from experts.host.memory import give_back
from experts.shard.copying.taker import Taker
from experts.shard.held.layer import ExpertCopy, HeldLayer, LoadedExpert
from experts.shard.held.loader import ExpertLoader
from experts.shard.held.pace import Pace
from experts.shard.held.states import CopyState
from experts.shard.shard import ExpertShard, sample_call

Wanted = Mapping[int, Sequence[int]]
Key = tuple[int, int]


class BudgetError(Exception):
    """What a shard is to hold takes more memory than it may."""

    def __init__(self, shard: int, more: int, held: int, budget: int) -> None:
        super().__init__(
            f"shard {shard} cannot hold {more} bytes of experts more, scratch memory included: it holds {held}, its "
            f"budget is {budget}, {held + more - budget} are missing"
        )
        self.missing = held + more - budget


class LiveExperts:
    """Changes what `shard` holds; any thread may ask, changes are made one after the other.

    Args:
        loader: reads experts, in the form of those that the shard holds.
        budget_bytes: what the weights may take, those that are being loaded and the scratch memory for it included;
            may be changed. None sets no limit.
        pace: of reading.
        taker: asks other shards first; what they do not give is read.
    """

    def __init__(
        self,
        shard: ExpertShard,
        loader: ExpertLoader,
        budget_bytes: int | None = None,
        pace: Pace | None = None,
        taker: Taker | None = None,
    ) -> None:
        self.budget_bytes = budget_bytes
        self.pace = pace or Pace()
        self.taker = taker
        self._shard = shard
        self._loader = loader
        self._states = shard.states
        self._loading = threading.Lock()
        self._replacing = threading.Lock()

    @property
    def held(self) -> dict[int, tuple[int, ...]]:
        """The experts of each MoE layer that are held, ascending."""
        return self._shard.held

    @property
    def weights_bytes(self) -> int:
        """Bytes of the weights that are held."""
        return self._shard.weights_bytes

    @property
    def copying(self) -> int:
        """How many copies are being loaded."""
        return self._states.copying

    @property
    def retiring(self) -> int:
        """How many copies that were given up are still computed by."""
        return self._states.retiring

    def state(self, layer: int, expert: int) -> CopyState:
        """Where this shard's copy of an expert stands; DROPPED also if it never had one."""
        held = self._shard.snapshot.get(layer)
        if held is not None and expert in held.experts:
            return CopyState.HELD
        return self._states.of(layer, expert)

    def hold(self, wanted: Wanted, go_on: Callable[[], None] = lambda: None) -> None:
        """Load what is missing of `wanted` (layer -> experts), beside what is held; blocks until all is held.

        If that fails nothing has changed: what was loaded for this call goes again.

        Args:
            go_on: called, on the loading thread, before each piece is read; what it raises ends the loading.

        Raises:
            BudgetError: it would take more memory than the shard may; nothing was read.
            CheckpointError, OSError: an expert could not be read.
            ValueError: the model has no such layer or expert.
            Exception: what `go_on` raised.
        """
        self._check(wanted)
        with self._loading:
            while missing := self._missing(wanted):  # again, should some have been given up meanwhile
                self._check_budget(missing)
                self._load(missing, go_on)

    def keep(self, wanted: Wanted) -> int:
        """Give up everything but `wanted`; return the bytes that it takes, which are free when no call needs them."""
        freed = self._give_up(wanted)
        give_back()  # only now: nothing of ours has the experts any more
        return freed

    def _load(self, missing: Sequence[Key], go_on: Callable[[], None]) -> None:
        self._states.begin(missing)
        try:
            run_behind(partial(self._take_over, missing, go_on), f"shard {self._shard.index} loads")
        except BaseException as error:
            clear_frames(error.__traceback__)  # they have what was loaded, and live as long as the error
            raise
        finally:
            self._states.end(missing)
            give_back()

    def _give_up(self, wanted: Wanted) -> int:
        with self._replacing:
            changed, given_up = dict[int, HeldLayer | None](), list[ExpertCopy]()
            for layer, held in self._shard.snapshot.items():
                kept = set(wanted.get(layer, ()))
                stay = [one for one in held.loaded() if one.expert in kept]
                if len(stay) < len(held.copies):
                    given_up += [copy for copy in held.copies if copy.expert not in kept]
                    changed[layer] = self._loader.together(stay) if stay else None
            self._states.retire(given_up)
            self._shard.replace(changed)
        return sum(copy.nbytes for copy in given_up)

    def _check(self, wanted: Wanted) -> None:
        experts = self._loader.manifest.experts
        for layer, ids in wanted.items():
            if layer not in self._shard.layers or not all(0 <= expert < experts for expert in ids):
                raise ValueError(f"the model has no expert of {list(ids)} in layer {layer}: it has 0 to {experts - 1}")

    def _missing(self, wanted: Wanted) -> list[Key]:
        held = self._shard.held
        return [(layer, expert) for layer, ids in wanted.items() for expert in sorted(set(ids) - set(held[layer]))]

    def _check_budget(self, missing: Sequence[Key]) -> None:
        if self.budget_bytes is None:
            return
        counts = {layer: len(held) for layer, held in self._shard.held.items()}
        for layer, _ in missing:
            counts[layer] += 1
        more = len(missing) * self._loader.expert_bytes + self._loader.scratch_bytes(max(counts.values()))
        if self.weights_bytes + more > self.budget_bytes:
            raise BudgetError(self._shard.index, more, self.weights_bytes, self.budget_bytes)

    def _take_over(self, missing: Sequence[Key], go_on: Callable[[], None]) -> None:
        """On the loading thread: read, try, and hold."""
        torch.set_num_threads(1)  # of this thread: others are for computing
        self._loader.before = lambda count: self.pace.take(count, go_on)
        try:
            loaded = [self._taken(key) or self._loader.read(*key) for key in missing]
        finally:
            self._loader.rest()
        with self._replacing:
            changed = self._with(loaded)
            self._warm_up(changed, missing)
            go_on()
            self._shard.replace(changed)

    def _taken(self, key: Key) -> LoadedExpert | None:
        return self.taker.read(*key, self._loader.before) if self.taker is not None else None

    def _with(self, loaded: Iterable[LoadedExpert]) -> dict[int, HeldLayer | None]:
        """The layers as they are with these experts."""
        by_layer = dict[int, list[LoadedExpert]]()
        for one in loaded:
            by_layer.setdefault(one.copy.layer, []).append(one)
        before = self._shard.snapshot
        return {
            layer: self._loader.together([*(before[layer].loaded() if layer in before else ()), *news])
            for layer, news in by_layer.items()
        }

    def _warm_up(self, changed: Mapping[int, HeldLayer | None], missing: Sequence[Key]) -> None:
        """Compute a row by each new expert: kernels are compiled, and what cannot compute is never held."""
        with torch.inference_mode():
            for layer, held in changed.items():
                experts = [expert for of, expert in missing if of == layer]
                if held is not None:
                    self._shard.compute_by(held, sample_call(held, np.array(experts, np.int32)))
