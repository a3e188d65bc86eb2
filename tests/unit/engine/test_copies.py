"""With another copy of every expert a shard may die, hang, slow down, lie or be cut off: the streams go on as if not."""

import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from experts.links.state import LinkState
from experts.transport.frame import Kind
from router_service.engine.request import Event
from tests.support.mesh import Mesh, greedy, tokens_of, until
from tests.support.relay import BACK, OUT
from tests.support.tiny import Tiny

SHARDS, COPIES, TOKENS = 4, 2, 24
PROMPTS = [[number + 3, number + 5, number + 9] for number in range(6)]
# A computation that is held up until the test lets it go would be waited for as long; the reference computes each row
# by itself, whatever it is merged with.
SETTINGS = {"shards": SHARDS, "copies": COPIES, "backend": "reference", "call_timeout_s": 30.0}


class Streams:
    """Requests on their way, step by step."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.events: dict[int, list[Event]] = {mesh.submit(prompt, greedy(TOKENS)): [] for prompt in PROMPTS}

    def step(self, count: int = 1) -> None:
        """Every stream gets a token a step: nobody waits for a shard that is away."""
        for _ in range(count):
            for event in self.mesh.engine.step():
                self.events[event.key].append(event)
            assert self.mesh.records[-1].trace.failures == {}

    def tokens(self) -> list[list[int]]:
        """Step to the end; what each stream has got."""
        while self.mesh.engine.requests:
            self.step()
        return [tokens_of(events) for events in self.events.values()]


@pytest.fixture(scope="module")
def made(tiny: Callable[..., Tiny]) -> Tiny:
    return tiny("qwen3_moe")


@pytest.fixture(scope="module")
def calm(made: Tiny) -> list[list[int]]:
    """The tokens of an undisturbed run, with the experts in this process."""
    with Mesh(made.plan, SHARDS, "local", backend="reference") as mesh:
        return [tokens_of(events) for events in mesh.generate(PROMPTS, greedy(TOKENS))]


def live(mesh: Mesh, *shards: int) -> None:
    """Wait until these shards, or all, have beaten."""
    connector = mesh.connector
    assert connector is not None
    chosen = shards or range(SHARDS)
    until(lambda: all(connector.link(shard) is LinkState.LIVE for shard in chosen), "they beat")


@pytest.fixture
def mesh(made: Tiny) -> Iterator[Mesh]:
    with Mesh(made.plan, way="unix", **SETTINGS) as mesh:
        live(mesh)
        yield mesh


@pytest.fixture
def relayed(made: Tiny) -> Iterator[Mesh]:
    with Mesh(made.plan, way="unix", relayed=True, **SETTINGS) as mesh:
        live(mesh)
        yield mesh


@pytest.mark.parametrize("seed", range(4))
def test_shards_that_die_one_after_the_other_at_any_moment(mesh: Mesh, calm: list[list[int]], seed: int) -> None:
    """Each while it computes a layer, and each is back before the next one dies."""
    random = Random(seed)
    victims = random.sample(range(SHARDS), SHARDS)
    streams = Streams(mesh)
    for victim in victims:
        streams.step(random.randint(1, 4))
        _die_while_computing(mesh, streams, victim, random.randint(1, 3))
        streams.step(random.randint(1, 2))
        mesh.servers.start(victim)
        live(mesh)
    assert streams.tokens() == calm
    assert mesh.blocks_used == 0
    assert sum(mesh.engine.pool.record.failovers.values()) >= SHARDS


def _die_while_computing(mesh: Mesh, streams: Streams, victim: int, layer: int) -> None:
    """In a step of the streams the shard dies with a call of a layer in its hands."""
    shard, calls = mesh.servers.shards[victim], 0
    compute = shard.compute

    def deadly(call: object) -> object:
        nonlocal calls
        calls += 1
        if calls == layer:
            mesh.servers.stop(victim)
        return compute(call)  # type: ignore[arg-type]

    shard.compute = deadly  # type: ignore[assignment,method-assign]
    try:
        while calls < layer:
            streams.step()
    finally:
        del shard.compute


@pytest.mark.parametrize("victim", range(SHARDS))
def test_a_shard_that_hangs_is_doubled(mesh: Mesh, calm: list[list[int]], victim: int) -> None:
    """It beats all the while, and its turn is held: only its answers are late."""
    streams = Streams(mesh)
    streams.step(3)
    with mesh.servers.running[victim].turn:
        assert streams.tokens() == calm
    record = mesh.engine.pool.record
    assert record.duplicates >= 1
    assert record.duplicates_won >= 1
    assert record.cancels >= 1
    live(mesh)
    assert Streams(mesh).tokens() == calm


@pytest.mark.parametrize("lost", [{OUT}, {BACK}, {OUT, BACK}])
def test_a_shard_that_is_cut_off_is_doubled_and_given_up(relayed: Mesh, calm: list[list[int]], lost: set[str]) -> None:
    connector, record = relayed.connector, relayed.engine.pool.record
    assert connector is not None
    streams = Streams(relayed)
    streams.step(3)
    relayed.servers.relays[1].loses |= lost
    assert streams.tokens() == calm
    assert record.duplicates_won >= 1
    until(lambda: connector.link(1) is LinkState.DEAD, "it is given up")
    assert Streams(relayed).tokens() == calm
    relayed.servers.relays[1].loses.clear()
    live(relayed)
    assert Streams(relayed).tokens() == calm


@pytest.mark.parametrize("kind", [Kind.PARTIALS, Kind.BEAT, Kind.STATUS])
def test_a_shard_that_sends_noise_is_not_believed(relayed: Mesh, calm: list[list[int]], kind: Kind) -> None:
    streams = Streams(relayed)
    streams.step(3)
    relayed.servers.relays[2].garbles.add(kind)
    assert streams.tokens() == calm
    relayed.servers.relays[2].garbles.clear()
    live(relayed)
    assert Streams(relayed).tokens() == calm


def test_a_slow_shard_holds_nobody_up_for_long(mesh: Mesh, calm: list[list[int]]) -> None:
    """Far slower than its usual time: others answer, and after a probation it is asked again."""
    assert Streams(mesh).tokens() == calm  # its usual time is known
    mesh.servers.running[3].delay_s = 0.5
    assert Streams(mesh).tokens() == calm
    record = mesh.engine.pool.record
    assert record.duplicates_won >= 1
    mesh.servers.running[3].delay_s = 0.0
    until(lambda: record.forgiven >= 1, "it is forgiven")
    live(mesh)
    assert Streams(mesh).tokens() == calm


def test_nothing_is_left_of_many_deaths(made: Tiny, calm: list[list[int]]) -> None:
    """No thread, and no descriptor."""
    gc.collect()
    threads, descriptors = _threads(), _descriptors()
    with Mesh(made.plan, way="unix", **SETTINGS) as mesh:
        for victim in (0, 1, 2, 3, 0, 1):
            live(mesh)
            streams = Streams(mesh)
            streams.step(2)
            mesh.servers.stop(victim)
            assert streams.tokens() == calm
            mesh.servers.start(victim)
        live(mesh)
    gc.collect()
    until(lambda: _threads() <= threads, "no thread is left")
    until(lambda: _descriptors() <= descriptors, "no descriptor is left")


def _threads() -> int:
    return threading.active_count()


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_the_last_holder_of_an_expert_is_waited_for(mesh: Mesh, calm: list[list[int]]) -> None:
    """Both holders of a block are away: its tokens wait for whichever is back first, and no other does."""
    streams = Streams(mesh)
    streams.step(3)
    for victim in (1, 2):
        mesh.servers.stop(victim)
    for _ in range(20):
        for event in mesh.engine.step():
            streams.events[event.key].append(event)
    assert mesh.engine.requests
    assert not mesh.engine.pool.reachable()
    mesh.servers.start(2)
    for key, events in mesh.drain().items():
        streams.events[key] += events
    assert [tokens_of(events) for events in streams.events.values()] == calm
