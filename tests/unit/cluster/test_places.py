"""Where processes of a joined cluster are put, what they may use there, and who needs a GPU."""

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.cli.main import parser
from cluster.cli.serve.serve_command import run_cluster
from cluster.config import ClusterConfig, ModelConfig, config_from
from cluster.planner import model
from cluster.planner.available_memory import device_bytes
from experts.checkpoint.errors import CheckpointError
from experts.config import WeightsConfig
from experts.host import cores

PLACES = {"front_resource": "em_front", "router_resource": "em_router", "shard_resource": "em_shard"}


def actor_options(monkeypatch: pytest.MonkeyPatch, **sections: Any) -> dict[str, dict[str, Any]]:
    """Ray's options of each deployment that the application would start."""
    options: dict[str, dict[str, Any]] = {}
    with warnings.catch_warnings(action="ignore"):  # Serve's own, of pydantic
        from cluster.serve import application as app
    real = app.deploy

    def deploy(replica: type, place: Any, **given: Any) -> Any:
        options[given["name"]] = given["ray_actor_options"]
        return real(replica, place, **given)

    monkeypatch.setattr(app, "deploy", deploy)
    app.build_app(config_from({"weights": {"resident": "dequantized"}, **sections}))
    return options


def test_each_kind_takes_one_of_its_resource(monkeypatch: pytest.MonkeyPatch) -> None:
    options = actor_options(monkeypatch, cluster=PLACES | {"address": "auto"})
    assert {name: one["resources"] for name, one in options.items()} == {
        "Balancer": {},
        "Front": {"em_front": 1.0},
        "Router": {"em_router": 1.0},
        "Shard-0": {"em_shard": 1.0},
        "Shard-1": {"em_shard": 1.0},
    }


def test_without_names_ray_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    options = actor_options(monkeypatch, cluster={"address": "auto"})
    assert {str(one["resources"]) for one in options.values()} == {"{}"}


def test_gpus_are_asked_for_where_there_are_none_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ray head that has no GPU builds an application whose shards and routers have."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cuda = {"device": "cuda"}
    options = actor_options(monkeypatch, model=cuda, cluster={"address": "auto", "gpus_per_process": 0.5})
    assert {name: one.get("num_gpus", 0) for name, one in options.items()} == {
        "Balancer": 0,
        "Front": 0,
        "Router": 0.5,
        "Shard-0": 0.5,
        "Shard-1": 0.5,
    }
    with pytest.raises(CheckpointError, match="sees no GPU here"):
        actor_options(monkeypatch, model=cuda)


def test_who_computes_needs_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(CheckpointError, match="sees no GPU here"):
        model.open_model(ModelConfig(device="cuda"), WeightsConfig())
    assert model.open_model(ModelConfig(device="cuda"), WeightsConfig(), computes_here=False).device.type == "cuda"
    assert device_bytes() == 0


def test_a_cluster_is_started_from_a_host_without_its_gpus(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`serve` gets as far as joining the Ray whose nodes have them; on a machine of our own it says what lacks."""
    joined: list[ClusterConfig] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)

    def serve(*flags: str) -> int:
        args = parser().parse_args(["serve", "--device", "cuda", *flags])
        return run_cluster(args, lambda *_: None, start=lambda config, *_: joined.append(config) or 0)

    assert serve("--address", "127.0.0.1:6379") == 0
    assert [(config.model.device, config.cluster.address) for config in joined] == [("cuda", "127.0.0.1:6379")]
    assert serve() == 2
    assert "model.device is cuda, but torch sees no GPU here" in capsys.readouterr().err
    assert len(joined) == 1


@pytest.mark.parametrize(
    ("inner", "outer", "expected"),
    [
        ("max 100000", "max 100000", 16),
        ("400000 100000", "max 100000", 4),
        ("max 100000", "250000 100000", 2),
        ("50000 100000", "800000 100000", 1),
        ("nonsense", "300000 100000", 3),
    ],
)
def test_cores_are_those_of_the_container(
    inner: str, outer: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda _: set(range(16)))
    (tmp_path / "pod" / "container").mkdir(parents=True)
    (tmp_path / "pod" / "container" / "cpu.max").write_text(inner + "\n")
    (tmp_path / "pod" / "cpu.max").write_text(outer + "\n")
    own = tmp_path / "own"
    own.write_text("0::/pod/container\n")
    assert cores.usable_cores(tmp_path, own) == expected


def test_cores_where_the_path_is_the_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a namespace of its own a container sees its group at the mount itself."""
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda _: set(range(16)))
    (tmp_path / "cpu.max").write_text("600000 100000\n")
    (tmp_path / "own").write_text("0::/../../kubepods/pod7\n")
    assert cores.usable_cores(tmp_path, tmp_path / "own") == 6
    (tmp_path / "own").write_text("12:cpu:/kubepods\n")
    assert cores.usable_cores(tmp_path, tmp_path / "own") == 16


def test_drain_says_in_one_line_what_is_wrong() -> None:
    """And it ends: Ray would go on trying."""
    command = [sys.executable, "-m", "cluster.cli.main", "drain", "--address", "127.0.0.1:1", "--seconds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 2
    assert done.stderr.startswith("expertmesh: cannot drain expertmesh: ")
    assert done.stderr.count("\n") == 1
