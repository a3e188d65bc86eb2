"""A process that still loads hears the order to drain, and loads nothing more."""

import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from cluster.config import ModelConfig, config_from
from experts.config import WeightsConfig
from experts.placement import Placement, even_placement
from experts.shard.shard import load_shard
from experts.transport.address import Endpoint
from kernels import select
from tests.support.mesh import until
from tests.support.tiny import write_checkpoint

with warnings.catch_warnings(action="ignore"):  # Serve's own, of pydantic
    from cluster.planner.model import open_model
    from cluster.processes import announcer, registered_process
    from cluster.processes.maps.placement_maps import Layout
    from cluster.processes.registered_process import EndedWhileLoadingError, RegisteredProcess
    from cluster.processes.service_registry import Announcement, DrainOrder, ServiceRegistry
    from cluster.serve import router_replica

ORDER = DrainOrder(grace_s=1.0)
SECONDS = 30.0


REMOTE = ("announce", "announcements", "withdraw", "map_view")


class LiveRegistry(ServiceRegistry):
    """The registry's body as an actor's handle; notes what is said there."""

    def __init__(self) -> None:
        super().__init__()
        self.states: list[str] = []
        self.obeyed = threading.Event()
        self._passed = False

    def announce(self, announcement: Announcement) -> DrainOrder | None:
        """Who asks again after an order has worked on it."""
        if announcement.replica == "r":  # ours
            self.states.append(announcement.state)
        if self._passed:
            self.obeyed.set()
        order = super().announce(announcement)
        self._passed = order is not None
        return order

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        return Remote(value) if name in REMOTE and not isinstance(value, Remote) else value


class Remote:
    def __init__(self, method: Callable[..., Any]) -> None:
        self.remote = method

    def __call__(self, *arguments: Any) -> Any:
        return self.remote(*arguments)


@pytest.fixture
def body(monkeypatch: pytest.MonkeyPatch) -> LiveRegistry:
    made = LiveRegistry()
    monkeypatch.setattr(ray, "get", lambda answer, timeout: answer)  # noqa: ARG005 (Ray's name)
    monkeypatch.setattr(announcer, "ANNOUNCE_SECONDS", 0.001)
    monkeypatch.setattr(registered_process, "find_registry", lambda _: made)
    monkeypatch.setattr(registered_process, "set_logging", lambda *_: None)
    monkeypatch.setattr(registered_process, "replica_id", lambda: "r")
    monkeypatch.setattr(registered_process, "node_id", lambda: "n")
    return made


@pytest.fixture
def process(body: LiveRegistry) -> Iterator[RegisteredProcess]:
    assert body.announcements() == []
    one = RegisteredProcess("shard", 0, config_from({}), lambda _: pytest.fail("there is nothing to drain"))
    yield one
    one.close()


def order_and_wait(body: LiveRegistry) -> None:
    body.order("r", ORDER)
    assert body.obeyed.wait(SECONDS)


def test_loading_ends_at_the_next_tensor(body: LiveRegistry, process: RegisteredProcess, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "mixtral")
    model = open_model(ModelConfig(checkpoint=str(tmp_path), device="cpu"), WeightsConfig(resident="dequantized"))
    tensors: list[int] = []

    def progress(loaded: int) -> None:
        tensors.append(loaded)
        if len(tensors) == 3:
            order_and_wait(body)
        process.progress(loaded)

    placement = even_placement(model.plan.spec.gate.experts, 1)

    def load() -> None:
        with process.loading():
            process.will_load(model.shard_bytes(len(placement.held_by(0))))
            load_shard(
                index=0,
                placement=placement,
                checkpoint=model.plan.checkpoint,
                manifest=model.plan.tensors.experts,
                dtype=model.dtype,
                device=model.device,
                ops=select.ops("auto", model.device),
                keep_packed=model.keep_packed,
                progress=progress,
            )

    with pytest.raises(EndedWhileLoadingError, match=r"^told to drain while loading: ended after"):
        load()
    assert len(tensors) == 3
    assert body.announcements() == []
    assert "ready" not in body.states


def test_one_that_is_told_before_it_loads_begins_nothing(body: LiveRegistry, process: RegisteredProcess) -> None:
    order_and_wait(body)
    with pytest.raises(EndedWhileLoadingError):
        process.will_load(1 << 30)


class ProvingRouter:
    """A router whose first token never comes; it is told to drain while it waits for that."""

    endpoint = None

    def __init__(self, body: LiveRegistry, **_: Any) -> None:
        self._body = body

    def ready(self) -> bool:
        return True

    def complete(self) -> bool:
        return True

    def adopt(self, placement: Placement) -> None:
        pytest.fail(f"there is no newer map than {placement}")

    def run_self_test(self, seconds: float, go_on: Callable[[], None]) -> None:
        order_and_wait(self._body)
        go_on()
        pytest.fail(f"waits for its token for {seconds} s")


class Replica(router_replica.RouterReplica):
    def __del__(self) -> None:  # type: ignore[override]
        """Serve awaits it; here there is nobody who would."""


def test_a_router_ends_in_the_midst_of_its_self_test(
    body: LiveRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(router_replica, "build_engine", lambda placement, **_: placement())
    starts_and_ends(body, tmp_path, monkeypatch)


def starts_and_ends(body: LiveRegistry, path: Path, monkeypatch: pytest.MonkeyPatch, **sections: Any) -> None:
    """A router that is told to drain while it starts."""
    write_checkpoint(path, "mixtral")
    monkeypatch.setattr(router_replica, "Router", lambda **options: ProvingRouter(body, **options))
    monkeypatch.setattr(router_replica, "node_id", lambda: "n")
    monkeypatch.setattr(router_replica, "replica_id", lambda: "r")
    monkeypatch.setattr(router_replica, "data_host", lambda _: "127.0.0.1")
    data = {"model": {"checkpoint": str(path), "device": "cpu"}, "weights": {"resident": "dequantized"}}
    with pytest.raises(EndedWhileLoadingError):
        Replica(data | sections, b"secret", bytes(32))
    assert body.announcements() == []
    assert "ready" not in body.states


def test_a_router_ends_while_it_waits_for_others_to_load(
    body: LiveRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(cache_room: Callable[[torch.device], int], **_: Any) -> None:
        order_and_wait(body)
        cache_room(torch.device("cpu"))
        pytest.fail("waited for shards that are not there")

    monkeypatch.setattr(router_replica, "build_engine", build)
    starts_and_ends(body, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("device", "loaded", "expected"),
    [("cpu", 1 << 40, 500), ("cpu", 0, 250), ("cuda", 0, 1000)],
)
def test_routers_of_a_node_share_its_memory_but_no_gpu(
    body: LiveRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, loaded: int, expected: int
) -> None:
    """The other one's cache is reserved, but what is not written to yet looks free.

    What the shard may load while placements change is left to it, at most half.
    """
    shard = Endpoint(role="shard", index=0, replica="s", incarnation=1, node="n", host="", port=1, unix_name="", pid=1)
    body.announce(Announcement("shard", 0, "s", "n", 1, "ready", loaded_bytes=loaded, endpoint=shard))
    body.announce(Announcement("router", 0, "other", "n", 1, "loading", loaded_bytes=7, total_bytes=7))
    free: list[int] = []

    def build(
        cache_room: Callable[[torch.device], int],
        progress: Callable[[int], None],
        placement: Callable[[], Placement],
        **_: Any,
    ) -> None:
        progress(1 << 40)
        free.append(cache_room(torch.device(device)))
        placement()
        body.withdraw("router", 0, "other")
        body.withdraw("shard", 0, "s")

    monkeypatch.setattr(router_replica, "free_bytes", lambda _: 1000)
    monkeypatch.setattr(router_replica, "build_engine", build)
    starts_and_ends(body, tmp_path, monkeypatch, experts={"shards": 1}, cluster={"routers": 2})
    assert free == [expected]


def test_the_epoch_of_the_map_is_in_the_entry(body: LiveRegistry, process: RegisteredProcess) -> None:
    process.map_follower(Layout(8, 2)).first()
    until(lambda: [one.epoch for one in body.announcements()] == [1], "it is announced")


def test_what_fails_in_loading_is_withdrawn(body: LiveRegistry, process: RegisteredProcess) -> None:
    with pytest.raises(ZeroDivisionError), process.loading():
        raise ZeroDivisionError
    assert body.announcements() == []


def test_an_order_between_the_last_check_and_ready_is_not_lost(body: LiveRegistry) -> None:
    """Were it left to the registry to repeat it, a restart of the registry would lose it."""
    drained = threading.Event()
    one = RegisteredProcess("shard", 0, config_from({}), lambda _: drained.set())
    order_and_wait(body)
    body.withdraw("shard", 0, "r")  # a restart, after which it knows of no order
    one.ready(None)
    assert drained.wait(SECONDS)
    one.close()


def test_a_process_says_when_it_was_started(body: LiveRegistry, process: RegisteredProcess) -> None:
    process.ready(None)
    (said,) = body.announcements()
    assert said.started_ns > 1.6e18
    assert said.incarnation
