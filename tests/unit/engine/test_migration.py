"""Experts move between steps while streams run: no token changes, whoever held what before."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random

import pytest
import torch

from experts.links.state import LinkState
from experts.placement import LayerPlacement, Placement
from experts.shard.held.loader import ExpertLoader
from experts.shard.live_experts import LiveExperts
from kernels import select
from router_service.engine.request import Event
from tests.support.mesh import CPU, Mesh, greedy, tokens_of, until
from tests.support.tiny import Tiny

SHARDS, TOKENS, MOVES = 3, 20, 5
PROMPTS = [[number + 3, number + 5, number + 9] for number in range(6)]


@pytest.fixture(scope="module")
def made(tiny: Callable[..., Tiny]) -> Tiny:
    return tiny("qwen3_moe")


@pytest.fixture(scope="module")
def calm(made: Tiny) -> list[list[int]]:
    """The tokens where nothing moves, in this process."""
    with Mesh(made.plan, SHARDS, "local", backend="reference", exact_combine=True) as mesh:
        return [tokens_of(events) for events in mesh.generate(PROMPTS, greedy(TOKENS))]


class Moving:
    """A mesh whose shards take experts over and give them up."""

    def __init__(self, mesh: Mesh, made: Tiny, seed: int) -> None:
        self.mesh, self.random = mesh, Random(seed)
        plan = made.plan
        self.layers = plan.tensors.experts.layers
        loader = lambda: ExpertLoader(  # noqa: E731
            plan.checkpoint, plan.tensors.experts, torch.float32, CPU, select.ops("reference", CPU)
        )
        self.live = [LiveExperts(shard, loader()) for shard in mesh.servers.shards]
        self.events: dict[int, list[Event]] = {mesh.submit(prompt, greedy(TOKENS)): [] for prompt in PROMPTS}

    @property
    def current(self) -> Placement:
        return self.mesh.engine.pool.placement

    def step(self) -> None:
        for event in self.mesh.engine.step():
            self.events[event.key].append(event)

    def anywhere(self) -> Placement:
        """Another place for each expert of each layer, one copy or two."""

        def layer() -> LayerPlacement:
            holders = (tuple(self.random.sample(range(SHARDS), self.random.choice((1, 2)))) for _ in range(experts))
            return LayerPlacement(tuple(holders))

        experts, epoch = self.current.experts, self.current.epoch + 1
        return Placement(SHARDS, layer(), {one: layer() for one in self.layers}, epoch)

    def prepare(self, coming: Placement) -> None:
        for index, live in enumerate(self.live):
            live.hold({layer: coming.layer(layer).held_by(index) for layer in self.layers})

    def retire(self) -> None:
        for index, live in enumerate(self.live):
            live.keep({layer: self.current.layer(layer).held_by(index) for layer in self.layers})


@pytest.fixture(params=[("unix", "off"), ("unix", "on"), ("local", "on")], ids=str)
def mesh(request: pytest.FixtureRequest, made: Tiny) -> Iterator[Mesh]:
    way, overlap = request.param
    with Mesh(made.plan, SHARDS, way, backend="reference", exact_combine=True, overlap=overlap) as mesh:
        if (connector := mesh.connector) is not None:
            until(lambda: all(connector.link(one) is LinkState.LIVE for one in range(SHARDS)), "they beat")
        yield mesh


@pytest.mark.parametrize("seed", range(3))
def test_tokens_are_equal_before_during_and_after(mesh: Mesh, made: Tiny, calm: list[list[int]], seed: int) -> None:
    moving = Moving(mesh, made, seed)
    for _ in range(MOVES):
        moving.step()
        coming = moving.anywhere()
        moving.prepare(coming)
        moving.step()  # by the old map; shards hold what both give
        assert mesh.engine.pool.adopt(coming)
        moving.step()
        moving.retire()
    while mesh.engine.requests:
        moving.step()
    assert [tokens_of(events) for events in moving.events.values()] == calm
    assert all(not record.trace.failures for record in mesh.records)
    for index, live in enumerate(moving.live):
        assert live.held == {layer: moving.current.layer(layer).held_by(index) for layer in moving.layers}
    assert mesh.blocks_used == 0


def test_a_map_that_is_not_newer_is_not_adopted(mesh: Mesh) -> None:
    pool = mesh.engine.pool
    assert not pool.adopt(replace(pool.placement))
    assert pool.adopt(newer := replace(pool.placement, epoch=3))
    assert not pool.adopt(replace(newer, epoch=2))
    assert pool.placement is newer


def test_a_router_that_overslept_a_move_waits_for_its_new_map(made: Tiny, calm: list[list[int]]) -> None:
    """Shards have given up what it asks for: MISS costs it steps until it has the newer map, and no token."""
    with Mesh(made.plan, SHARDS, "unix", backend="reference", exact_combine=True) as mesh:
        moving, missed = Moving(mesh, made, 7), list[int]()
        mesh.engine.pool.on_miss(lambda: missed.append(1))
        moving.step()
        assert not missed
        coming = moving.anywhere()
        moving.prepare(coming)
        for index, live in enumerate(moving.live):
            live.keep({layer: coming.layer(layer).held_by(index) for layer in moving.layers})
        for _ in range(5):
            moving.step()
        assert any(record.trace.failures for record in mesh.records)
        assert missed  # the router then looks for a newer map at once
        mesh.engine.pool.adopt(coming)
        while mesh.engine.requests:
            moving.step()
        assert [tokens_of(events) for events in moving.events.values()] == calm


@pytest.mark.parametrize("seed", range(3))
def test_a_shard_that_restarts_by_the_newer_map_costs_a_router_that_asks_by_the_older_no_request(
    made: Tiny, calm: list[list[int]], seed: int
) -> None:
    """The new process holds what the current map gives it, not what the one before did: MISS, then the newer map."""
    with Mesh(made.plan, SHARDS, "unix", backend="reference", exact_combine=True) as mesh:
        moving, missed, connector = Moving(mesh, made, seed), list[int](), mesh.connector
        assert connector is not None
        mesh.engine.pool.on_miss(lambda: missed.append(1))
        moving.step()
        current = moving.anywhere()
        moving.prepare(current)
        for index, live in enumerate(moving.live):
            mesh.servers.stop(index)
            live.keep({layer: current.layer(layer).held_by(index) for layer in moving.layers})
            mesh.servers.start(index)
        until(lambda: all(connector.link(one) is LinkState.LIVE for one in range(SHARDS)), "they beat")

        def misses() -> bool:
            moving.step()
            return bool(missed)

        until(misses, "it asks for what nobody holds any more")
        mesh.engine.pool.adopt(current)  # what the router's look brings, between two steps
        while mesh.engine.requests:
            moving.step()
        assert [tokens_of(events) for events in moving.events.values()] == calm
