"""Checkpoints of hundreds of files and 10^5 tensors: planned in little memory, and what is wrong with them is said."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from experts.checkpoint.directory import INDEX, SINGLE, Checkpoint
from experts.checkpoint.errors import CheckpointError
from router_service.models.families.registry import plan_model
from tests.support import large
from tests.support.tiny import make_tiny

# Each runs in a process of its own, which prints one JSON object.
PLAN = """
import json, resource, sys
from pathlib import Path
from experts.checkpoint.directory import Checkpoint
from router_service.models.families.registry import plan_model
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
plan = plan_model(Checkpoint(Path(sys.argv[1])))
experts = plan.tensors.experts
print(json.dumps({
    "bytes": peak() - before,
    "parameters": plan.tensors.router_elements + 58 * 256 * experts.elements_per_expert,
    "notices": plan.notices,
}))
"""
LOAD = """
import json, sys
from pathlib import Path
import torch
from experts.checkpoint.directory import Checkpoint
from experts.placement import even_placement
from experts.shard.shard import load_shard
from kernels import select
from router_service.models.families.registry import plan_model

opened = set()
sys.addaudithook(lambda event, args: opened.add(str(args[0])) if event == "open" else None)
plan = plan_model(Checkpoint(Path(sys.argv[1])), verify=False)
placement = even_placement(plan.spec.gate.experts, 4)
cpu = torch.device("cpu")
load_shard(index=int(sys.argv[2]), placement=placement, checkpoint=plan.checkpoint, manifest=plan.tensors.experts,
           dtype=torch.float32, device=cpu, ops=select.ops("cpu"))
print(json.dumps(sorted(Path(name).name for name in opened if name.endswith(".safetensors"))))
"""


def in_process(code: str, *args: object) -> object:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, timeout=120, check=True
    )
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def deepseek(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("deepseek")
    large.write(path)
    return path


def test_deepseek_v3_is_planned_in_little_memory(deepseek: Path) -> None:
    """163 files and 91,991 tensors, of which the 1,564 of layer 61 predict further tokens."""
    assert len(Checkpoint(deepseek).names) == 91_991
    found = in_process(PLAN, deepseek)
    assert isinstance(found, dict)
    assert found["bytes"] < 200e6
    assert round(found["parameters"] / 1e9) == 671
    assert found["notices"] == [f"{deepseek}: 1564 tensors of multi-token prediction are not used and not loaded"]


def test_without_verification_no_file_is_opened(deepseek: Path, tmp_path: Path) -> None:
    for name in ("config.json", INDEX):
        (tmp_path / name).write_bytes((deepseek / name).read_bytes())
    for name in set(json.loads((deepseek / INDEX).read_text())["weight_map"].values()):
        (tmp_path / name).write_bytes(b"not a safetensors file")
    assert plan_model(Checkpoint(tmp_path), verify=False).tensors.experts.encoded
    with pytest.raises(CheckpointError, match="not safetensors"):
        plan_model(Checkpoint(tmp_path))


@pytest.mark.parametrize("shard", [0, 3])
def test_a_shard_opens_only_the_files_that_hold_its_experts(tmp_path: Path, shard: int) -> None:
    """A file for each expert of each layer, and one for all that is no expert."""
    make_tiny(tmp_path, "deepseek_v3")
    weight_map = split_by_expert(tmp_path)
    held = {f".experts.{expert}." for expert in range(3 * shard, 3 * shard + 3)}
    expected = {file for name, file in weight_map.items() if any(part in name for part in held)}
    assert len(expected) == 2 * 3
    assert in_process(LOAD, tmp_path, shard) == sorted(expected)


def split_by_expert(path: Path) -> dict[str, str]:
    tensors = load_file(path / SINGLE)
    (path / SINGLE).unlink()
    weight_map = {name: file_of(name) for name in tensors}
    for file in set(weight_map.values()):
        save_file({name: tensors[name] for name in tensors if weight_map[name] == file}, path / file)
    (path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return weight_map


def file_of(name: str) -> str:
    parts = name.split(".")
    return f"layer{parts[2]}-expert{parts[5]}.safetensors" if ".mlp.experts." in name else "rest.safetensors"


def test_an_index_that_names_a_missing_file(tmp_path: Path) -> None:
    rows = list(large.tensors())[:400]
    weight_map = large.write(tmp_path, rows)
    lost = weight_map[rows[77][0]]
    (tmp_path / lost).unlink()
    with pytest.raises(CheckpointError) as caught:
        Checkpoint(tmp_path)
    assert str(caught.value) == f"{tmp_path / lost}: no such file, but {INDEX} places tensors there"


def test_a_file_that_no_index_names_is_not_read(tmp_path: Path) -> None:
    made = make_tiny(tmp_path, "mixtral")
    tensors = load_file(tmp_path / SINGLE)
    (tmp_path / SINGLE).rename(tmp_path / "part.safetensors")
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(tensors, "part.safetensors")}))
    (tmp_path / "consolidated.safetensors").write_bytes(b"another format of the same model")
    plan = plan_model(Checkpoint(tmp_path))
    assert plan.spec == made.plan.spec
    assert plan.notices == (f"{tmp_path}: 1 weights files are not in the index and not read: consolidated.safetensors",)


def test_a_tensor_that_stands_twice_in_one_file(tmp_path: Path) -> None:
    make_tiny(tmp_path, "mixtral")
    name = "model.norm.weight"
    file = tmp_path / SINGLE
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].decode().rstrip()
    entry = json.dumps({name: json.loads(header)[name]})[1:-1]
    text = f"{header[:-1]},{entry}}}".encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight stands there twice") as caught:
        plan_model(Checkpoint(tmp_path))
    assert str(file) in str(caught.value)


def test_a_tensor_that_stands_twice_in_the_index(tmp_path: Path) -> None:
    make_tiny(tmp_path, "mixtral")
    names = list(load_file(tmp_path / SINGLE))
    lines = ", ".join(f'"{name}": "{SINGLE}"' for name in [*names, names[3]])
    (tmp_path / INDEX).write_text(f'{{"weight_map": {{{lines}}}}}')
    with pytest.raises(CheckpointError, match=f"{names[3]} stands there twice"):
        Checkpoint(tmp_path)


def test_a_tensor_in_two_files_is_the_one_of_the_index(tmp_path: Path) -> None:
    made = make_tiny(tmp_path, "mixtral")
    tensors = load_file(tmp_path / SINGLE)
    name = "model.norm.weight"
    save_file({name: torch.full_like(tensors[name], 7.0), "other": torch.zeros(1)}, tmp_path / "second.safetensors")
    weight_map = dict.fromkeys(tensors, SINGLE)
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map | {"other": "second.safetensors"}}))
    with pytest.raises(CheckpointError, match="unexpected tensor other"):
        plan_model(Checkpoint(tmp_path))
    entry = Checkpoint(tmp_path).entry(name)
    assert entry is not None
    assert entry.file == tmp_path / SINGLE
    assert made.plan.tensors.router["norm"].shape == entry.shape
