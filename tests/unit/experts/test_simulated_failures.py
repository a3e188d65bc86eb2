"""The router's side of the data plane in a simulated network, through any sequence of faults that hypothesis finds.

Checked after each step: an answer is used only for a call that is open (I1), everything is added exactly once and in
an order that depends on nobody (I2, I3: the bits are those of shards in this process), shards compute only what they
hold (I4), epochs do not decrease (I6), calls say when nobody needs them any more and are cancelled (I7), windows are
kept (I8), tokens are lost only where no holder could be asked or the time was over (I9), and what fails for good costs
no link (I10). And once all is well again every step ends in time and whole (I11).

A failure prints the steps that led to it; `@reproduce_failure` replays them.
"""

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from experts.costs import ShardCosts, equal_costs
from experts.links.asks import WINDOW
from experts.links.state import LinkState
from experts.placement import LayerPlacement, Placement, even_placement
from experts.pool import Combined, ExpertPool
from experts.routing import Routing
from experts.shard.local import LocalTransport
from tests.support.simulated import BEAT_S, HUNG_S, PureShard, SimulatedNetwork, computed_twice

CPU, HIDDEN, EXPERTS, SHARDS, DEADLINE_S = torch.device("cpu"), 4, 8, 4, 6.0
SHARD = st.integers(0, SHARDS - 1)
# The time within a layer at which something happens.
MOMENT = st.sampled_from([0.0, 0.0001, 0.0003, 0.001, 0.0013, 0.01, 0.06, 0.2])
FAULTS = ("kill", "restart", "pause", "resume", "hang", "deaf", "mute", "hear", "slow", "fast", "busy", "garble")


def placed(copies: int, epoch: int, hot: bool) -> Placement:
    """An even placement; where some experts are hot, each third one has a copy more."""
    holders = list(even_placement(EXPERTS, SHARDS, copies).everywhere.holders)
    if hot:
        holders[::3] = [(*shards, (shards[-1] + 1) % SHARDS) for shards in holders[::3]]
    return Placement(SHARDS, LayerPlacement(tuple(holders)), epoch=epoch)


class Failures(RuleBasedStateMachine):
    """A router that steps on while its shards and wires fail."""

    @initialize(copies=st.integers(1, 3), exact=st.booleans(), hot=st.booleans())
    def begin(self, copies: int, exact: bool, hot: bool) -> None:
        self.hot = hot
        self.placement = placed(copies, 1, hot)
        held = [frozenset(self.placement.held_by(shard)) for shard in range(SHARDS)]
        self.network = SimulatedNetwork(held)
        self.pool = ExpertPool(self.network, self.placement, HUNG_S, exact, clock=lambda: self.network.now)
        # Sums of blocks in the order of blocks: the same placement, so that the same sums are formed. Whom it chooses
        # is another matter: its costs stay equal.
        local = LocalTransport(dict.fromkeys(range(SHARDS), PureShard()))  # type: ignore[arg-type]
        self.local = ExpertPool(local, self.placement, HUNG_S, exact)
        self.network.run(2 * BEAT_S)
        self.seed = 0

    @rule(shard=SHARD, fault=st.sampled_from(FAULTS), moment=MOMENT)
    def fail(self, shard: int, fault: str, moment: float) -> None:
        """Something happens, now or during the next layer."""
        if moment:
            self.network.after(moment, lambda: self._do(shard, fault))
        else:
            self._do(shard, fault)

    def _do(self, index: int, fault: str) -> None:
        network, shard = self.network, self.network.shards[index]
        match fault:
            case "kill":
                network.kill(index)
            case "restart":
                network.restart(index)
            case "pause":
                shard.paused = True
            case "resume":
                network.resume(index)
            case "hang":
                shard.hung = True
            case "deaf" | "mute":
                setattr(shard, fault, True)
            case "hear":
                shard.deaf = shard.mute = False
            case "slow" | "fast":
                shard.slow = 200.0 if fault == "slow" else 1.0
            case "busy":
                shard.busy = not shard.busy
            case "garble":
                shard.garbles = not shard.garbles

    @rule(seconds=st.sampled_from([0.05, 0.3, 1.0, 3.0]))
    def wait(self, seconds: float) -> None:
        """Nobody asks."""
        self.network.run(seconds)

    @rule(seconds=st.sampled_from([0.5, 3.0, 30.0]))
    def oversleep(self, seconds: float) -> None:
        """The router is not scheduled: a shard that is well is not blamed for it."""
        network = self.network
        well = [shard.index for shard in network.shards if shard.well and self._is(shard.index, LinkState.LIVE)]
        network.sleep(seconds)
        assert all(self._is(index, LinkState.LIVE) for index in well if network.shards[index].well)

    def _is(self, shard: int, state: LinkState) -> bool:
        return self.network.state(shard) is state

    @rule()
    def renew(self) -> None:
        """The placement gets a new epoch."""
        self.placement = self.pool.placement = placed(self.placement.copies, self.placement.epoch + 1, self.hot)

    @rule(times=st.lists(st.floats(0.1, 10.0), min_size=SHARDS, max_size=SHARDS))
    def learn(self, times: list[float]) -> None:
        """Shards turn out to be of different speeds."""
        even = equal_costs(SHARDS)
        self.pool.costs = ShardCosts(even.call_us_S * times, even.expert_us_S * times, even.pair_us_S * times)

    @rule(tokens=st.integers(1, 5), lanes=st.integers(1, 2))
    def layer(self, tokens: int, lanes: int) -> None:
        """A layer, of one batch or of two that take turns."""
        self._layers(tokens, lanes)

    @precondition(lambda self: self.placement.copies == 1)
    @rule(shard=SHARD)
    def poison(self, shard: int) -> None:
        """A computation that fails for good costs its rows, and no link."""
        network = self.network
        self._all_well()
        network.shards[shard].poisoned = True
        before = network.links.number(shard)
        for combined in self._layers(3, 1):
            assert {failure.reason for failure in combined.failures} <= {"error"}
        assert network.links.number(shard) == before
        assert network.available(shard)
        network.shards[shard].poisoned = False

    @rule(tokens=st.integers(1, 5))
    def heal(self, tokens: int) -> None:
        """All is well again, and so is every step from then on."""
        self._all_well()
        begun = self.network.now
        for combined in self._layers(tokens, 2):
            assert combined.lost_TK is None
        assert self.network.now - begun <= 2 * DEADLINE_S

    def _all_well(self) -> None:
        """What was to happen yet happens, and then all heals; links that are dead are dialled again."""
        self.network.run(0.3)
        self.network.heal()
        self.network.run(HUNG_S + 1.0)

    def _layers(self, tokens: int, lanes: int) -> list[Combined]:
        network, pool = self.network, self.pool
        self.local.placement = self.placement
        asked = [self._question(tokens) for _ in range(lanes)]
        pool.deadline_s = network.now + DEADLINE_S
        handles = [pool.dispatch(5, *question, lane) for lane, question in enumerate(asked)]
        found = []
        for handle, question in zip(handles, asked, strict=True):
            combined = pool.combine(handle, CPU)
            self._check(combined, *question)
            found.append(combined)
        assert network.awaited == 0, "what nobody waits for is cancelled"
        return found

    def _question(self, tokens: int) -> tuple[torch.Tensor, Routing]:
        self.seed += 1
        random = np.random.default_rng(self.seed)
        ids_TK = random.random((tokens, EXPERTS)).argsort(axis=1)[:, :3]
        x_TD = torch.from_numpy(random.standard_normal((tokens, HIDDEN), np.float32))
        return x_TD, Routing(ids_TK, random.random((tokens, 3), np.float32))

    def _check(self, combined: Combined, x_TD: torch.Tensor, routing: Routing) -> None:
        whole = self.local.combine(self.local.dispatch(5, x_TD, routing), CPU)
        lost_TK = np.zeros(routing.expert_ids_TK.shape, bool) if combined.lost_TK is None else combined.lost_TK
        kept_T = torch.from_numpy(~lost_TK.any(axis=1))
        assert torch.equal(combined.y_TD[kept_T], whole.y_TD[kept_T])
        if lost_TK.any() and self.network.now < self.pool.deadline_s:
            self._explain(combined, routing.expert_ids_TK[lost_TK])

    def _explain(self, combined: Combined, lost: np.ndarray) -> None:
        """Tokens are lost before the deadline only where no holder could be asked, or a computation has failed."""
        if {failure.reason for failure in combined.failures} <= {"error"}:
            return
        for expert in lost:
            holders = self.placement.everywhere.holders[expert]
            shards = [self.network.shards[shard] for shard in holders]
            assert not all(shard.well and self._is(shard.index, LinkState.LIVE) for shard in shards), holders

    @invariant()
    def windows_are_kept(self) -> None:
        if hasattr(self, "network"):
            assert self.network.most_open <= WINDOW

    @invariant()
    def shards_compute_once_and_what_they_hold(self) -> None:
        if hasattr(self, "network"):
            assert max(computed_twice(self.network).values(), default=1) == 1
            for shard in self.network.shards:
                assert all(shard.held.issuperset(experts) for _, experts, _ in shard.computed)


Failures.TestCase.settings = settings(max_examples=30, stateful_step_count=20, deadline=None, print_blob=True)
TestFailures = Failures.TestCase
