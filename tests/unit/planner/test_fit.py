"""Whether a model fits, in what form, on how many shards; and what is said where it does not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cluster.cli.main import parser
from cluster.cli.serve.serve_command import run_cluster
from cluster.config import ClusterConfig, ConfigError, config_from
from cluster.planner import config_resolver as resolver
from cluster.planner.available_memory import GIB, limited
from cluster.planner.config_resolver import check_process, computes_packed, demands, resolve_for_nodes, resolve_here
from cluster.planner.memory_plan import (
    CONTROL_BYTES,
    PROCESS_BYTES,
    Demand,
    DoesNotFitError,
    Forms,
    Room,
    choose,
    refusal,
    refusal_in,
    smallest_shards,
    while_loading,
)
from cluster.planner.model import open_model
from cluster.processes.nodes import bytes_for_each
from experts.config import WeightsConfig
from experts.host.memory import cgroup_rooms, host_bytes
from router_service.config import EngineConfig
from router_service.engine.cache_size import resolved_limits, sized_groups
from tests.support.quantize import write_fp8
from tests.support.tiny import Tiny, write_checkpoint

LARGE = Demand(experts=8, expert_bytes=10 * GIB, router_bytes=4 * GIB, cache_bytes=GIB)
SMALL = replace(LARGE, expert_bytes=5 * GIB, router_bytes=3 * GIB)
BOTH = Forms(LARGE, SMALL)

sizes = st.integers(0, 1 << 40)


@given(st.integers(1, 400), st.integers(1, 1 << 36), sizes, sizes, st.integers(0, 1 << 30), sizes)
def test_the_smallest_shard_count_is_the_smallest(
    experts: int, expert: int, router: int, cache: int, process: int, each: int
) -> None:
    demand = Demand(experts, expert, router, cache, process)
    fits = [shards for shards in range(1, experts + 1) if demand.largest(shards) <= each]
    assert smallest_shards(demand, each) == (fits[0] if fits else None)


@given(st.integers(0, 1 << 50))
def test_headroom_is_at_least_15_percent(weights: int) -> None:
    assert 115 * weights <= 100 * while_loading(weights) < 115 * weights + 100


def test_demands_by_hand() -> None:
    assert LARGE.shard(3) == 3 * 23 * GIB // 2 + PROCESS_BYTES
    assert LARGE.router == while_loading(4 * GIB) + GIB + PROCESS_BYTES
    assert LARGE.largest(8) == LARGE.shard(8)
    assert replace(LARGE, routers=2).together(3) == 92 * GIB + 3 * PROCESS_BYTES + 2 * LARGE.router + CONTROL_BYTES


@pytest.mark.parametrize("shared", [True, False])
def test_auto_has_three_outcomes(shared: bool) -> None:
    def room(bytes: int) -> Room:
        return Room(bytes, shared, "here")

    most, least = room(0).need(LARGE, 2), room(0).need(SMALL, 2)
    assert choose("auto", BOTH, room(most), 2) == "dequantized"
    assert choose("auto", BOTH, room(most - 1), 2) == choose("auto", BOTH, room(least), 2) == "packed"
    with pytest.raises(DoesNotFitError):
        choose("auto", BOTH, room(least - 1), 2)
    with pytest.raises(DoesNotFitError, match=r"weights\.resident packed needs"):
        choose("dequantized", BOTH, room(most - 1), 2)
    assert choose("packed", BOTH, room(most), 2) == "packed"


@pytest.mark.parametrize("shared", [True, False])
def test_auto_stays_packed_where_that_is_faster(shared: bool) -> None:
    def room(bytes: int) -> Room:
        return Room(bytes, shared, "here")

    faster = replace(BOTH, packed_faster=True)
    most, least = room(0).need(LARGE, 2), room(0).need(SMALL, 2)
    assert choose("auto", faster, room(most), 2) == choose("auto", faster, room(least), 2) == "packed"
    assert choose("dequantized", faster, room(most), 2) == "dequantized"
    assert choose("auto", replace(faster, packed=None), room(most), 2) == "dequantized"
    with pytest.raises(DoesNotFitError):
        choose("auto", faster, room(least - 1), 2)


def test_only_native_kernels_compute_packed() -> None:
    assert computes_packed("native", "cpu")
    assert not any(computes_packed(backend, "cpu") for backend in ("cpu", "reference"))
    assert not computes_packed("auto", "cuda")


def test_auto_without_encoded_tensors_is_dequantized() -> None:
    need = LARGE.together(2)
    assert choose("auto", Forms(LARGE), Room(need, True, "here"), 2) == "dequantized"
    with pytest.raises(DoesNotFitError):
        choose("auto", Forms(LARGE), Room(need - 1, True, "here"), 2)


def test_one_memory_is_not_helped_by_shards() -> None:
    forms = Forms(LARGE, None, {"--dtype bfloat16": SMALL})
    said = refusal("dequantized", forms, Room(60 * GIB, True, "here"), 2)
    assert "2 shards, 1 router and the Front need 99.6 GiB with weights dequantized" in said
    assert "60.0 GiB are available here; no number of shards fits on this machine" in said
    assert f"--dtype bfloat16 needs {SMALL.together(2) / GIB:.1f} GiB and fits" in said
    assert "joining a Ray cluster (--address) fits from --shards 2 on, a node of this size for each process" in said
    assert "\n" not in said
    assert "--dtype" not in refusal("dequantized", forms, Room(40 * GIB, True, "here"), 2)


def test_one_memory_may_hold_fewer_processes() -> None:
    there = LARGE.together(6)
    assert "; --shards 6 fits; " in refusal("dequantized", Forms(LARGE), Room(there, True, "here"), 8)


def test_nodes_too_small_for_the_router() -> None:
    said = refusal("dequantized", Forms(LARGE), Room(5 * GIB, True, "here"), 2)
    assert "needs a node of at least 11.9 GiB for each process" in said


def test_a_memory_for_each_names_the_smallest_number() -> None:
    said = refusal("dequantized", BOTH, Room(30 * GIB, False, "on a GPU for each"), 2)
    assert "a shard of 2 needs 46.4 GiB, a router 6.0 GiB" in said
    assert "; --shards 4 fits; weights.resident packed needs 23.4 GiB and fits" in said
    assert "no number of shards fits with so much for each" in refusal("packed", BOTH, Room(GIB, False, "there"), 2)


def cgroup(path: Path, **files: object) -> None:
    path.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (path / name.replace("__", ".")).write_text(f"{text}\n")


def own(tmp_path: Path, lines: str) -> Path:
    file = tmp_path / "cgroup"
    file.write_text(lines)
    return file


def test_cgroup_v2(tmp_path: Path) -> None:
    """Every level counts; one without a limit says nothing; cached files are given back."""
    root = tmp_path / "fs"
    cgroup(root / "a", memory__max=1000, memory__current=400, memory__stat="anon 1\ninactive_file 50")
    cgroup(root / "a/b", memory__max="max", memory__current=300, memory__stat="inactive_file 7")
    cgroup(root / "a/b/c", memory__max=500, memory__current=200, memory__stat="inactive_file 20")
    assert list(cgroup_rooms(root, own(tmp_path, "0::/a/b/c\n"))) == [320, 650]
    assert host_bytes(root, tmp_path / "cgroup") == 320


def test_cgroup_v1_in_a_container(tmp_path: Path) -> None:
    """The path is that of the host; only the mount's own files are seen."""
    root = tmp_path / "fs"
    files = {"memory__limit_in_bytes": 900, "memory__usage_in_bytes": 1000, "memory__stat": "total_inactive_file 30"}
    cgroup(root / "memory", **files)
    lines = "12:cpu,cpuacct:/x\n4:memory:/docker/123\n0::/\n"
    assert list(cgroup_rooms(root, own(tmp_path, lines))) == [0]


@pytest.mark.parametrize("limit", [8 * GIB, 2 * GIB])
def test_the_kv_cache_is_of_the_pods_memory(limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod with a limit on a node of a TiB: the node's memory is not ours to fill."""
    root = tmp_path / "fs"
    cgroup(root / "pod", memory__max=limit, memory__current=GIB, memory__stat="anon 1\ninactive_file 0")
    list_of_ours = own(tmp_path, "0::/pod\n")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1 << 40))
    config = config_from({}).model
    spec = open_model(config, WeightsConfig("dequantized")).plan.spec
    router = EngineConfig(max_sequences=1 << 20, kv_memory_fraction=0.5)
    limits = resolved_limits(spec, router)
    (group,) = sized_groups(spec, router, limits, torch.bfloat16, lambda: host_bytes(root, list_of_ours))
    taken = group.blocks * router.block_size * spec.kv_elements_per_token * torch.bfloat16.itemsize
    assert 0.49 < taken / (limit - GIB) <= 0.5


def test_no_cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=7 * GIB))
    assert host_bytes(tmp_path, tmp_path / "none") == 7 * GIB
    assert limited(5 * GIB, 0.0) == limited(5 * GIB, 7.0) == 5 * GIB
    assert limited(5 * GIB, 0.5) == GIB // 2


def test_nodes() -> None:
    def node(memory: int, alive: bool = True, cpus: int = 4) -> dict[str, Any]:
        return {"Alive": alive, "Resources": {"CPU": cpus, "memory": memory} if cpus else {"memory": memory}}

    nodes = [node(100), node(80), node(7, alive=False), node(5, cpus=0)]
    assert [bytes_for_each(nodes, processes) for processes in (1, 2, 3)] == [80, 80, 40]
    assert bytes_for_each([], 2) == 0


@pytest.fixture
def large_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory for what these tests fit in, however much the machine that runs them has left."""
    monkeypatch.setattr(resolver, "host_bytes", lambda: 64 * GIB)


def configured(path: Path, limit_gib: float, resident: str = "auto", **cluster: Any) -> ClusterConfig:
    return config_from(
        {
            "model": {"checkpoint": str(path), "device": "cpu"},
            "weights": {"resident": resident},
            "experts": {"backend": "cpu"},
            "cluster": {"memory_limit_gib": limit_gib, **cluster},
        }
    )


@pytest.fixture(scope="module")
def fp8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Experts of 28 MB in FP8, 57 MB in bfloat16 (the checkpoint's dtype)."""
    path = tmp_path_factory.mktemp("fp8")
    wide = {"hidden_size": 384, "moe_intermediate_size": 1024, "num_hidden_layers": 3}
    model = write_checkpoint(path, "deepseek_v3", torch.bfloat16, **wide)
    write_fp8(path, model, (128, 128))
    return path


@pytest.mark.usefixtures("large_host")
def test_auto_by_the_limit(fp8: Path) -> None:
    config = configured(fp8, 0.0)
    model = open_model(config.model, config.weights)
    forms = demands(config, model)
    assert forms.packed is not None
    needs = {"packed": forms.packed.together(2), "dequantized": forms.dequantized.together(2)}
    assert needs["dequantized"] - needs["packed"] > 20e6
    for form, need in needs.items():
        found = resolve_here(configured(fp8, (need + 1e6) / GIB), model)
        assert found.weights.resident == form
        least = min(model.plan.spec.context, 8192)
        assert least <= found.router.kv_cache_tokens < least + 1e6 / 100
    with pytest.raises(DoesNotFitError):
        resolve_here(configured(fp8, (needs["packed"] - 1e6) / GIB), model)
    assert resolve_here(config, model).weights.resident == "dequantized"
    assert resolve_here(config, model).router == config.router


def test_native_kernels_keep_the_published_bytes(fp8: Path) -> None:
    config = configured(fp8, 0.0)
    config = replace(config, experts=replace(config.experts, backend="native"))
    assert resolve_here(config, open_model(config.model, config.weights)).weights.resident == "packed"


def test_nodes_decide_where_a_cluster_is_joined(fp8: Path) -> None:
    config = configured(fp8, 0.0, address="auto")
    model = open_model(config.model, config.weights)
    forms = demands(config, model)
    assert forms.packed is not None
    for there, form in (
        (forms.dequantized.largest(2), "dequantized"),
        (forms.packed.largest(2), "packed"),
        (9, "packed"),
    ):
        assert resolve_for_nodes(config, model, there).weights.resident == form
    assert resolve_for_nodes(configured(fp8, 0.0, "dequantized"), model, 9).weights.resident == "dequantized"


def test_gpus_hold_a_process_each(tiny: Callable[..., Tiny], monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_from({"model": {"checkpoint": str(tiny("mixtral").path)}})
    model = replace(open_model(replace(config.model, device="cpu"), config.weights), device=torch.device("cuda"))
    monkeypatch.setattr(resolver, "device_bytes", lambda: 2 * GIB)
    assert resolve_here(config, model).weights.resident == "dequantized"
    halves = replace(config, cluster=replace(config.cluster, gpus_per_process=0.25))
    with pytest.raises(DoesNotFitError, match=r"512\.0 MiB are available on a GPU for each"):
        resolve_here(halves, model)


@pytest.mark.usefixtures("large_host")
@pytest.mark.parametrize("role", ["shard", "router"])
def test_a_process_looks_at_its_own_node(tiny: Callable[..., Tiny], role: str) -> None:
    path = tiny("qwen3_moe").path
    model = open_model(configured(path, 0.0).model, WeightsConfig("dequantized"))
    check_process(configured(path, 1.0, "dequantized"), model, role)
    with pytest.raises(
        DoesNotFitError, match=f"on the node of a {role} that needs 38.*memory_limit_gib is 0.1"
    ) as caught:
        check_process(configured(path, 0.1, "dequantized"), model, role)
    source = "ray::ServeReplica.init()\n    raise DoesNotFitError(refusal(1))"
    remote = f"{source}\ncluster.memory.DoesNotFitError: {caught.value}\n"
    assert refusal_in(remote) == str(caught.value)
    assert refusal_in("A replica failed to start with exception. Error:\nValueError: other") == ""


def test_an_auto_that_reaches_a_process_is_our_error(tiny: Callable[..., Tiny]) -> None:
    config = configured(tiny("mixtral").path, 0.0)
    with pytest.raises(AssertionError, match="whoever starts the processes resolves"):
        _ = open_model(config.model, config.weights).router_bytes


def test_a_limit_must_not_be_negative() -> None:
    with pytest.raises(ConfigError, match=r"cluster.memory_limit_gib is -1.0, it must be at least 0"):
        config_from({"cluster": {"memory_limit_gib": -1.0}})


@pytest.mark.usefixtures("large_host")
def test_the_start_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before Ray starts, which alone takes seconds."""
    write_checkpoint(tmp_path, "qwen3_moe")
    file = tmp_path / "cluster.yaml"
    file.write_text("cluster:\n  memory_limit_gib: 0.1\n")
    args = parser().parse_args(["serve", str(tmp_path), "--config", str(file), "--device", "cpu"])
    assert run_cluster(args, lambda *_: None, start=lambda *_: pytest.fail("it starts Ray")) == 2
    shown = capsys.readouterr()
    assert "the model does not fit: 2 shards, 1 router and the Front need 2.0 GiB with weights dequantized" in shown.err
    assert "102.4 MiB are available here (cluster.memory_limit_gib is 0.1)" in shown.err
    assert "no number of shards fits on this machine" in shown.err
    errors = [line for line in shown.err.splitlines() if "starting " not in line and "is taken: using" not in line]
    assert (len(errors), shown.out) == (1, "")
