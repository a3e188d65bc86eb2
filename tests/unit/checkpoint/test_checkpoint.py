"""What is wrong with a checkpoint is said in one line that names file and tensor; what is right is read right."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from experts.checkpoint.directory import INDEX, SINGLE, Checkpoint, Copy
from experts.checkpoint.errors import CheckpointError
from router_service.models.families.registry import plan_model
from tests.support.tiny import write_checkpoint

NORM = "model.norm.weight"
EXPERT = "model.layers.2.mlp.experts.3.up_proj.weight"
PART = "model-00002-of-00002.safetensors"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path, "qwen3_moe")
    return tmp_path


def error_of(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        plan_model(Checkpoint(path))
    message = str(caught.value)
    assert "\n" not in message
    return message


def change_tensors(path: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(path / SINGLE)
    change(tensors)
    save_file(tensors, path / SINGLE)


def change_header(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    data = (path / SINGLE).read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    (path / SINGLE).write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def change_config(path: Path, **changes: Any) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | changes))


def split(path: Path) -> dict[str, str]:
    """Put the experts in a second file; return the index's map, which is written by `write_index`."""
    tensors = load_file(path / SINGLE)
    (path / SINGLE).unlink()
    names = {name: PART if "experts" in name else "model-00001-of-00002.safetensors" for name in tensors}
    for file in set(names.values()):
        save_file({name: tensors[name] for name in names if names[name] == file}, path / file)
    write_index(path, names)
    return names


def write_index(path: Path, names: object) -> None:
    (path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}))


@pytest.mark.parametrize("name", [NORM, EXPERT])
def test_missing_tensor(path: Path, name: str) -> None:
    change_tensors(path, lambda tensors: tensors.pop(name))
    message = error_of(path)
    assert str(path) in message
    assert f"missing tensor {name}" in message


def test_extra_tensor(path: Path) -> None:
    change_tensors(path, lambda tensors: tensors.update({"model.layers.9.extra": torch.zeros(2)}))
    assert error_of(path).startswith(f"{path / SINGLE}: unexpected tensor model.layers.9.extra")


def test_tensors_that_follow_from_others_may_be_there(path: Path) -> None:
    change_tensors(path, lambda tensors: tensors.update({"model.rotary_emb.inv_freq": torch.zeros(8)}))
    plan_model(Checkpoint(path))


@pytest.mark.parametrize("name", [NORM, EXPERT])
def test_shape_that_contradicts_the_configuration(path: Path, name: str) -> None:
    change_tensors(path, lambda tensors: tensors.update({name: torch.cat((tensors[name], tensors[name]))}))
    message = error_of(path)
    assert message.startswith(f"{path / SINGLE}: tensor {name} has shape [")
    assert "config.json implies [" in message


@pytest.mark.parametrize("dtype", [torch.int64, torch.float8_e4m3fn, torch.float64])
def test_wrong_dtype(path: Path, dtype: torch.dtype) -> None:
    change_tensors(path, lambda tensors: tensors.update({EXPERT: tensors[EXPERT].to(dtype)}))
    assert error_of(path).startswith(f"{path / SINGLE}: tensor {EXPERT} has dtype ")


@pytest.mark.parametrize("cut", [1, 5000])
def test_truncated_data(path: Path, cut: int) -> None:
    data = (path / SINGLE).read_bytes()
    (path / SINGLE).write_bytes(data[:-cut])
    assert error_of(path).startswith(f"{path / SINGLE}: truncated: tensor ")


@pytest.mark.parametrize("keep", [0, 7, 8, 100])
def test_truncated_header(path: Path, keep: int) -> None:
    (path / SINGLE).write_bytes((path / SINGLE).read_bytes()[:keep])
    assert error_of(path).startswith(f"{path / SINGLE}: truncated")


def test_a_pointer_of_git_lfs(path: Path) -> None:
    """What a clone holds where `git lfs` is not installed."""
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 4976698672\n"
    (path / SINGLE).write_text(pointer)
    assert error_of(path).startswith(f"{path / SINGLE}: a pointer of Git LFS, not the weights: run `git lfs pull`")


@pytest.mark.parametrize("length", [1 << 63, (1 << 64) - 1, 10_000_000])
def test_header_longer_than_the_file(path: Path, length: int) -> None:
    data = (path / SINGLE).read_bytes()
    (path / SINGLE).write_bytes(struct.pack("<Q", length) + data[8:])
    assert f"{path / SINGLE}: truncated or not safetensors: header of {length} bytes" in error_of(path)


@pytest.mark.parametrize(
    "header",
    [b"not json", b"\xff\xfe{}", b"[]", b"7", b'{"a": 1}', b'{"a": {}}', b"[" * 100_000, b'{"a": {"dtype": "F32"}}'],
)
def test_header_that_is_no_header(path: Path, header: bytes) -> None:
    (path / SINGLE).write_bytes(struct.pack("<Q", len(header)) + header)
    assert error_of(path).startswith(f"{path / SINGLE}: not a safetensors file")


@pytest.mark.parametrize(
    "entry",
    [
        {"data_offsets": [-192, 0]},
        {"data_offsets": [192, 0]},
        {"data_offsets": [0, 2**70]},
        {"data_offsets": [0]},
        {"data_offsets": "ab"},
        {"shape": [2**70]},
        {"shape": [2**62, 4]},
        {"shape": [-48]},
        {"shape": ["x"]},
        {"shape": 3},
        {"shape": [47]},
    ],
)
def test_entry_that_makes_no_sense(path: Path, entry: dict[str, Any]) -> None:
    change_header(path, lambda header: header[NORM].update(entry))
    assert error_of(path).startswith(f"{path / SINGLE}: ")


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "\udcff", "[" * 100_000])
@pytest.mark.parametrize("name", ["config.json", INDEX])
def test_file_that_is_no_json_object(path: Path, name: str, text: str) -> None:
    (path / name).write_bytes(text.encode(errors="surrogateescape"))
    assert error_of(path).startswith(f"{path / name}: ")


def test_no_directory_no_config_no_weights(path: Path) -> None:
    assert error_of(path / "nowhere") == f"{path / 'nowhere'}: no such checkpoint directory"
    (path / SINGLE).unlink()
    assert error_of(path) == f"{path}: neither {SINGLE} nor {INDEX}: no safetensors weights"
    (path / "config.json").unlink()
    assert error_of(path) == f"{path}: no config.json: not a Hugging Face checkpoint directory"


@pytest.mark.parametrize(
    "family", [{"architectures": ["LlamaForCausalLM"]}, {"architectures": None, "model_type": "x"}]
)
def test_unknown_family(path: Path, family: dict[str, Any]) -> None:
    change_config(path, **family)
    message = error_of(path)
    assert message.startswith(f"{path / 'config.json'}: unknown model family")
    assert "MixtralForCausalLM, Qwen3MoeForCausalLM" in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", 0),
        ("hidden_size", "48"),
        ("num_hidden_layers", None),
        ("num_local_experts", True),
        ("num_key_value_heads", 4),
        ("head_dim", 15),
        ("hidden_act", "gelu"),
        ("rope_parameters", {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}),
        ("num_experts_per_tok", 99),
        ("mlp_only_layers", [0, 1, 2]),
    ],
)
def test_configuration_that_cannot_be_served(path: Path, key: str, value: object) -> None:
    change_config(path, **{key: value})
    message = error_of(path)
    assert message.startswith(f"{path / 'config.json'}: ")
    assert key.split("_")[0] in message or key == "mlp_only_layers"


def test_index(path: Path) -> None:
    names = split(path)
    plan_model(Checkpoint(path))
    write_index(path, names | {EXPERT: "absent.safetensors"})
    assert error_of(path) == f"{path / 'absent.safetensors'}: no such file, but {INDEX} places tensors there"
    write_index(path, names | {EXPERT: names[NORM]})
    assert error_of(path).startswith(f"{path / names[NORM]}: missing tensor {EXPERT}")
    del names[EXPERT]
    write_index(path, names)
    plan_model(Checkpoint(path))


@pytest.mark.parametrize("file", ["../model.safetensors", "/etc/passwd", "a/../../model.safetensors"])
def test_index_that_leaves_the_directory(path: Path, file: str) -> None:
    names = split(path)
    write_index(path, names | {EXPERT: file})
    assert error_of(path).startswith(f"{path / INDEX}: the weights file {file!r} lies outside")


@pytest.mark.parametrize("names", [None, [], "a", {NORM: 7}, {NORM: None}, {NORM: [SINGLE]}, {NORM: {}}, {NORM: ""}])
def test_index_that_makes_no_sense(path: Path, names: object) -> None:
    write_index(path, names)
    assert error_of(path).startswith(str(path))


def test_of_two_tensors_of_one_name_the_index_chooses(path: Path) -> None:
    names = split(path)
    other = path / names[NORM]
    tensors = load_file(other)
    save_file(load_file(path / PART) | {NORM: torch.full((48,), 7.0)}, path / PART)
    for file in (names[NORM], PART):
        write_index(path, names | {NORM: file})
        out = torch.empty(48)
        Checkpoint(path).load([Copy(NORM, out)])
        assert torch.equal(out, tensors[NORM] if file == names[NORM] else torch.full((48,), 7.0))


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kept", [torch.float32, torch.float16, torch.bfloat16])
def test_values_equal_what_safetensors_reads(
    tmp_path: Path, stored: torch.dtype, kept: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In pieces that divide nothing, and for sizes on both sides of a piece."""
    monkeypatch.setattr("experts.checkpoint.safetensors_file.PIECE_BYTES", 1000)
    tensors = {f"t{n}": torch.randn(n, 3).to(stored) for n in (1, 7, 166, 167, 500, 3001)} | {
        "empty": torch.empty(0, 3)
    }
    save_file(tensors, tmp_path / SINGLE)
    (tmp_path / "config.json").write_text("{}")
    out = {name: torch.full(tensor.shape, torch.nan, dtype=kept) for name, tensor in tensors.items()}
    read = []
    Checkpoint(tmp_path).load([Copy(name, tensor) for name, tensor in out.items()], read.append)
    for name, tensor in load_file(tmp_path / SINGLE).items():
        assert torch.equal(out[name], tensor.to(kept)), name
    assert sum(read) == sum(tensor.nbytes for tensor in out.values())
