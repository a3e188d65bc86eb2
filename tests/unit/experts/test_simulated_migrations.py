"""Copies come and go in the simulated network while shards fail: no bit changes, and what may be asked is held.

A schedule is drawn from a seed: placements that shards prepare for, one after the other, in the middle of layers;
shards that die, hang or slow down meanwhile and come back with what the maps of that moment give them. The rules of
`test_simulated_failures.py` hold after each layer, answers have the bits of the local transport, and no expert is lost
that a holder which has been well all along could have computed.
"""

from random import Random

import numpy as np
import pytest
import torch

from experts.links.asks import WINDOW
from experts.placement import LayerPlacement, Placement, even_placement
from experts.pool import Combined, ExpertPool
from experts.routing import Routing
from experts.shard.local import LocalTransport
from tests.support.simulated import BEAT_S, HUNG_S, PureShard, SimulatedNetwork, SimulatedShard, computed_twice

CPU, HIDDEN, EXPERTS, SHARDS, DEADLINE_S = torch.device("cpu"), 4, 8, 4, 6.0
SCHEDULES, LAYERS = 200, 24
LOOK_S = 0.2
MOMENTS = (0.0001, 0.0003, 0.001, 0.0013, 0.01, 0.06, 0.2)


class Migration:
    """What the control plane does, in virtual time: shards load at their own pace, then the router changes over.

    Its parts are tested in `tests/unit/cluster`; here it is as short as can be, so that the data plane meets every
    order of events: a shard that dies while it prepares, or with what it has just taken over.
    """

    def __init__(self, network: SimulatedNetwork, pool: ExpertPool, random: Random) -> None:
        self.network, self.pool, self.random = network, pool, random
        self.current = self.newest = pool.placement
        self.coming: Placement | None = None
        self.ready = dict[int, int]()
        self.switched = self.failed = 0

    def propose(self) -> None:
        """A placement of one or two copies of each expert, anywhere."""
        if self.coming is not None or self.pool.placement.epoch != self.current.epoch:
            return
        holders = tuple(tuple(self.random.sample(range(SHARDS), self.random.choice((1, 2, 2)))) for _ in range(EXPERTS))
        self.coming = self.newest = Placement(SHARDS, LayerPlacement(holders), epoch=self.newest.epoch + 1)
        self.ready = {}
        for index in self.coming.holding:
            self.network.after(self.random.uniform(0.0, 0.3), lambda index=index, to=self.coming: self.load(index, to))

    def load(self, index: int, coming: Placement) -> None:
        """A shard has loaded what is coming, unless it was given up or the shard has died meanwhile."""
        shard = self.network.shards[index]
        if self.coming is not coming or not shard.alive or shard.paused:
            return
        shard.held = shard.held | frozenset(coming.held_by(index))
        self.ready[index] = shard.life
        lives = {one.index: one.life for one in self.network.shards if one.alive}
        if all(self.ready.get(one) == lives.get(one, -1) for one in coming.holding):
            self.current, self.coming = coming, None
            self.switched += 1

    def give_up(self) -> None:
        """Nothing but the current map counts any more."""
        if self.coming is not None:
            self.coming = None
            self.failed += 1

    def between_steps(self) -> None:
        """The router adopts the current map; when no call by an older one is open, shards give up the rest."""
        if self.pool.adopt(self.current):
            for shard in self.network.shards:
                self.network.after(self.random.uniform(0.0, LOOK_S), lambda shard=shard: self.retire(shard))

    def retire(self, shard: SimulatedShard) -> None:
        """A shard has heard that all is settled."""
        if self.pool.placement.epoch == self.current.epoch and not shard.paused:
            shard.held = self.due(shard.index)

    def begins(self, shard: SimulatedShard) -> None:
        """A new process loads what the maps of now give it."""
        shard.held = self.due(shard.index)
        if self.coming is not None and shard.index in self.coming.holding:
            self.load(shard.index, self.coming)

    def due(self, index: int) -> frozenset[int]:
        maps = [self.current] if self.coming is None else [self.current, self.coming]
        return frozenset(expert for one in maps for expert in one.held_by(index))


class Schedule:
    """A run that a seed decides."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        placement = Placement(SHARDS, even_placement(EXPERTS, SHARDS, 2).everywhere, epoch=1)
        self.network = SimulatedNetwork([frozenset(placement.held_by(shard)) for shard in range(SHARDS)])
        self.pool = ExpertPool(self.network, placement, HUNG_S, exact=True, clock=lambda: self.network.now)
        local = LocalTransport(dict.fromkeys(range(SHARDS), PureShard()))  # type: ignore[arg-type]
        self.local = ExpertPool(local, placement, HUNG_S, exact=True)
        self.migration = Migration(self.network, self.pool, self.random)
        self.network.run(2 * BEAT_S)
        self.killed = self.asked = 0
        self.able = set[int]()  # shards of the first hour that nothing ails in this layer

    def event(self) -> None:
        """Something happens, at any moment of the next layer."""
        act = self.random.choice((self.migration.propose, self.migration.propose, self.hurt, self.hurt, self.back))
        self.network.after(self.random.choice(MOMENTS), act)
        if self.random.random() < 0.05:
            self.network.after(self.random.choice(MOMENTS), self.migration.give_up)

    def hurt(self) -> None:
        """One at a time."""
        shard = self.random.choice(self.network.shards)
        if not all(one.well for one in self.network.shards):
            return
        self.able.discard(shard.index)
        match self.random.choice(("kill", "kill", "pause", "hang", "slow", "busy")):
            case "kill":
                self.network.kill(shard.index)
            case "pause":
                shard.paused = True
            case "hang":
                shard.hung = True
            case "slow":
                shard.slow = 200.0
            case "busy":
                shard.busy = True

    def kill_while_it_prepares(self) -> None:
        """A shard dies in the midst of a migration, in this layer or in the next ones."""
        self.back()
        self.network.run(1.0)
        self.migration.between_steps()
        self.migration.propose()
        self.network.after(self.random.uniform(0.0, 0.05), self.kill)

    def kill(self) -> None:
        shard = self.random.choice(self.network.shards)
        self.able.discard(shard.index)
        self.killed += shard.alive and self.migration.coming is not None
        self.network.kill(shard.index)

    def back(self) -> None:
        """Whoever is away is back, a dead one as a new process."""
        for shard in self.network.shards:
            dead = not shard.alive
            shard.slow, shard.busy = 1.0, False
            self.network.restart(shard.index)
            self.network.resume(shard.index)
            if dead:
                self.migration.begins(shard)

    def layer(self) -> None:
        """A step of one layer, of one batch or of two that take turns; what is lost is repeated by the engine."""
        self.migration.between_steps()
        self.able = {one.index for one in self.network.shards if one.well and one.life == 1}
        self.able = {index for index in self.able if self.network.available(index)}
        self.pool.deadline_s = self.network.now + DEADLINE_S
        asked = [self.question() for _ in range(self.random.choice((1, 2)))]
        handles = [self.pool.dispatch(5, *question, lane) for lane, question in enumerate(asked)]
        for handle, question in zip(handles, asked, strict=True):
            self.check(self.pool.combine(handle, CPU), *question)
        assert self.network.awaited == 0
        assert self.network.most_open <= WINDOW
        assert max(computed_twice(self.network).values(), default=1) == 1

    def question(self) -> tuple[torch.Tensor, Routing]:
        self.asked += 1
        random = np.random.default_rng(self.asked)
        ids_TK = random.random((3, EXPERTS)).argsort(axis=1)[:, :3]
        x_TD = torch.from_numpy(random.standard_normal((3, HIDDEN), np.float32))
        return x_TD, Routing(ids_TK, random.random((3, 3), np.float32))

    def check(self, combined: Combined, x_TD: torch.Tensor, routing: Routing) -> None:
        whole = self.local.combine(self.local.dispatch(5, x_TD, routing), CPU)
        lost_TK = np.zeros(routing.expert_ids_TK.shape, bool) if combined.lost_TK is None else combined.lost_TK
        kept_T = torch.from_numpy(~lost_TK.any(axis=1))
        assert torch.equal(combined.y_TD[kept_T], whole.y_TD[kept_T])
        for expert in {*routing.expert_ids_TK[lost_TK].tolist()}:
            holders = self.pool.placement.everywhere.holders[expert]
            assert not self.able.intersection(holders) or self.network.now >= self.pool.deadline_s, (expert, holders)

    def ends_well(self) -> None:
        """All is well again: what is coming comes, and every step is whole by every map."""
        self.network.run(1.0)
        self.back()
        self.network.heal()
        self.network.run(HUNG_S + 1.0)
        for _ in range(2):
            self.migration.give_up()
            self.migration.between_steps()
            self.migration.propose()
            self.network.run(1.0)
            self.migration.between_steps()
            assert self.migration.coming is None
            self.network.run(1.0)
            question = self.question()
            self.pool.deadline_s = self.network.now + DEADLINE_S
            combined = self.pool.combine(self.pool.dispatch(5, *question), CPU)
            assert combined.lost_TK is None
            self.check(combined, *question)
            for shard in self.network.shards:
                assert shard.held == frozenset(self.migration.current.held_by(shard.index))


def run(seed: int) -> Schedule:
    schedule = Schedule(seed)
    deadly = schedule.random.sample(range(LAYERS), 2)
    for layer in range(LAYERS):
        if layer in deadly:
            schedule.kill_while_it_prepares()
        for _ in range(schedule.random.randint(0, 2)):
            schedule.event()
        schedule.layer()
        if schedule.random.random() < 0.3:
            schedule.network.run(schedule.random.choice((0.05, 0.3, 1.0)))
    schedule.ends_well()
    return schedule


@pytest.mark.parametrize("first", range(0, SCHEDULES, 20))
def test_no_bit_changes_whatever_moves_and_dies(first: int) -> None:
    switched = killed = 0
    for seed in range(first, first + 20):
        try:
            schedule = run(seed)
        except AssertionError as error:
            error.add_note(f"the schedule of seed {seed}")
            raise
        switched += schedule.migration.switched
        killed += schedule.killed
    assert switched >= 60
    assert killed >= 20, "one in each schedule"
