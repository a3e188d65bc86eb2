"""What the benchmarks hand to llama.cpp, and what they read of its answers."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from tests.benchmarks.harness.checkpoints import SHAPES, ensure
from tests.benchmarks.llama_cpp.gguf_file import Checkpoint, tensors, write_gguf
from tests.benchmarks.llama_cpp.programs import LlamaCpp, decode_rate_of, prefill_rate_of


@pytest.fixture(params=SHAPES)
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return ensure(request.param, "small", tmp_path / request.param)


def test_every_weight_is_handed_over_once(checkpoint: Path) -> None:
    found = dict(tensors(Checkpoint(checkpoint)))
    index = json.loads((checkpoint / "model.safetensors.index.json").read_text())
    whole = Checkpoint(checkpoint)
    assert sum(tensor.numel() for tensor in found.values()) == sum(whole[name].numel() for name in index["weight_map"])
    assert all(tensor.dtype in (torch.float32, torch.bfloat16) for tensor in found.values())


def test_heads_of_mixtral_are_turned_and_no_value_is_lost(tmp_path: Path) -> None:
    """Neighbouring outputs of llama.cpp's head are those half a head apart of transformers'."""
    whole = Checkpoint(ensure("mixtral", "small", tmp_path / "m"))
    ours, theirs = whole["model.layers.0.self_attn.q_proj.weight"], dict(tensors(whole))["blk.0.attn_q.weight"]
    assert torch.equal(theirs[0], ours[0])
    assert torch.equal(theirs[1], ours[32])
    assert torch.equal(theirs[64 + 2], ours[64 + 1])


def test_keys_and_values_of_latents_are_parted_by_head(tmp_path: Path) -> None:
    whole = Checkpoint(ensure("deepseek", "small", tmp_path / "d"))
    found, both = dict(tensors(whole)), whole["model.layers.1.self_attn.kv_b_proj.weight"]
    head = 3
    rows = both[head * 128 : (head + 1) * 128]
    assert torch.equal(found["blk.1.attn_k_b.weight"][head], rows[:64].T)
    assert torch.equal(found["blk.1.attn_v_b.weight"][head], rows[64:])


def test_a_file_needs_the_package(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.benchmarks.llama_cpp.gguf_file.find_spec", lambda _: None)
    with pytest.raises(ValueError, match="pip install gguf"):
        write_gguf(checkpoint, tmp_path / "f")


@pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="of the extra test: pip install gguf")
def test_a_file_is_written(checkpoint: Path, tmp_path: Path) -> None:
    import gguf

    write_gguf(checkpoint, tmp_path / "f")
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "f").tensors}
    expected = dict(tensors(Checkpoint(checkpoint)))
    assert found.keys() == expected.keys()
    assert all(list(found[name].shape) == list(expected[name].shape)[::-1] for name in found)


def test_programs_that_are_not_there_are_named(tmp_path: Path) -> None:
    (tmp_path / "llama-bench").touch(mode=0o755)
    with pytest.raises(ValueError, match="has no llama-batched-bench, llama-quantize"):
        LlamaCpp.of(tmp_path / "llama-bench")


def test_rates_are_read() -> None:
    assert prefill_rate_of('[{"n_prompt": 512, "avg_ts": 91.5}]') == 91.5
    said = 'main: n_kv_max = 64\n{"n_kv_max": 64, "pp": 64, "speed_pp": 40.0, "tg": 48, "speed_tg": 12.25}\n\n'
    assert decode_rate_of(said) == 12.25
