"""The deployment's digest: another for each thing that must be the same, the same for what need not be."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from experts.checkpoint.deployment_digest import deployment_digest
from experts.checkpoint.directory import Checkpoint


def write(path: Path, config: str = '{"a": 1, "b": {"c": 2, "d": "é"}}', name: str = "w", **tensor: object) -> Path:
    path.mkdir()
    (path / "config.json").write_text(config)
    save_file({name: torch.zeros(tensor.get("shape", (2, 3)), dtype=tensor.get("dtype"))}, path / "model.safetensors")  # type: ignore[call-overload]
    return path


def digest(path: Path, dtype: torch.dtype = torch.float32, resident: str = "packed") -> bytes:
    return deployment_digest(Checkpoint(path), dtype, resident)


def test_order_of_keys_and_place_do_not_matter(tmp_path: Path) -> None:
    turned = json.dumps({"b": {"d": "é", "c": 2}, "a": 1}, indent=2)
    assert digest(write(tmp_path / "one")) == digest(write(tmp_path / "two", turned))


@pytest.mark.parametrize(
    "change", [{"config": '{"a": 1}'}, {"name": "v"}, {"shape": (3, 2)}, {"dtype": torch.float16}], ids=str
)
def test_each_change_of_the_checkpoint_is_another(tmp_path: Path, change: dict[str, object]) -> None:
    assert digest(write(tmp_path / "one")) != digest(write(tmp_path / "two", **change))  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{"dtype": torch.bfloat16}, {"resident": "dequantized"}], ids=str)
def test_each_change_of_the_serving_is_another(tmp_path: Path, change: dict[str, object]) -> None:
    path = write(tmp_path / "one")
    assert digest(path) != digest(path, **change)  # type: ignore[arg-type]


def test_what_modelopt_says_beside_counts(tmp_path: Path) -> None:
    path = write(tmp_path / "one")
    before = digest(path)
    (path / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "FP8"}}')
    assert digest(path) != before


def test_the_size_of_a_file_counts(tmp_path: Path) -> None:
    path = write(tmp_path / "one")
    before = digest(path)
    with (path / "model.safetensors").open("ab") as file:
        file.write(b"\0")
    assert digest(path) != before
