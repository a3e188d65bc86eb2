"""Rotary embedding against transformers' own functions, for every kind and for what the models publish."""

from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from experts.checkpoint.errors import CheckpointError
from kernels.elements import rotate
from router_service.models.attention.rope import Rotation, frequencies, rotation
from router_service.models.families.config_reader import ConfigReader
from router_service.models.spec import Rope

DEEPSEEK = {
    "rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096, "beta_fast": 32, "beta_slow": 1,
    "mscale": 1.0, "mscale_all_dim": 1.0,
}  # fmt: skip
KINDS: dict[str, tuple[int, float, int, dict[str, Any]]] = {
    "linear": (64, 1e4, 8192, {"rope_type": "linear", "factor": 4.0}),
    "DeepSeek-V3": (64, 1e4, 163840, DEEPSEEK),
    "Kimi K2": (64, 5e4, 131072, DEEPSEEK | {"factor": 32.0, "beta_fast": 1.0}),
    "unlike mscales": (64, 1e4, 163840, DEEPSEEK | {"mscale": 0.707, "mscale_all_dim": 0.5}),
    "Qwen3 with YaRN": (
        128,
        1e6,
        131072,
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
    ),
    "gpt-oss": (64, 15e4, 131072, {
        "rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096, "beta_fast": 32.0,
        "beta_slow": 1.0, "truncate": False,
    }),
    "attention factor": (
        64,
        1e4,
        65536,
        {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 4096, "attention_factor": 1.7},
    ),
    "Llama 4 Scout": (128, 5e5, 10485760, {
        "rope_type": "llama3", "factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
    }),
    "Llama 3.1": (128, 5e5, 131072, {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("spelling", ["rope_parameters", "rope_scaling", "type"])
@pytest.mark.parametrize("name", KINDS)
def test_angles_are_those_of_transformers(name: str, spelling: str) -> None:
    dim, theta, context, numbers = KINDS[name]
    config = LlamaConfig(
        hidden_size=2 * dim,
        num_attention_heads=2,
        max_position_embeddings=context,
        rope_parameters=numbers | {"rope_theta": theta},
    )
    expected, factor = ROPE_INIT_FUNCTIONS[numbers["rope_type"]](config)
    angles, our_factor = frequencies(read(dim, theta, numbers, spelling))
    torch.testing.assert_close(angles, expected, rtol=1e-6, atol=0)
    assert our_factor == pytest.approx(factor)


def read(dim: int, theta: float, numbers: dict[str, Any], spelling: str) -> Rope:
    if spelling == "rope_parameters":
        config: dict[str, Any] = {"rope_parameters": numbers | {"rope_theta": theta}}
    else:
        renamed = {"type" if spelling == "type" and key == "rope_type" else key: v for key, v in numbers.items()}
        config = {"rope_theta": theta, "rope_scaling": renamed}
    return ConfigReader(config, "config.json").rope(dim, 1.0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"rope_scaling": {"type": "longrope"}},
            "rope_scaling.type is 'longrope', supported: 'default', 'linear', 'yarn'",
        ),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "original_max_position_embeddings is None"),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": "8"}},
            "rope_scaling.factor is '8', it must be a number from",
        ),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5"),
    ],
)
def test_what_is_not_supported_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: rope") as caught:
        ConfigReader(config, "config.json").rope(64, 1e4)
    assert message in str(caught.value)


def test_an_odd_size_is_refused() -> None:
    with pytest.raises(CheckpointError, match="is 63, it must be even"):
        ConfigReader({}, "config.json").rope(63, 1e4)


@pytest.mark.parametrize("interleaved", [False, True])
def test_turning_is_multiplication_by_a_unit_complex_number(interleaved: bool) -> None:
    rope = Rope(8, 100.0, interleaved=interleaved)
    angles, factor = frequencies(rope)
    positions = torch.tensor([0, 3, 1000])
    x = torch.randn(3, 2, 8, dtype=torch.float64).float()
    by = rotation(positions, rope, angles, factor, torch.float32)
    turned = rotate(x, by.cos_T1C, by.sin_T1C, interleaved)
    pairs = x.unflatten(-1, (4, 2)) if interleaved else x.unflatten(-1, (2, 4)).transpose(-1, -2)
    unit = torch.polar(torch.ones(3, 1, 4), torch.outer(positions.float(), angles)[:, None])
    expected = torch.view_as_real(torch.view_as_complex(pairs.contiguous()) * unit).transpose(-1, -2).flatten(-2)
    torch.testing.assert_close(turned, expected, rtol=1e-5, atol=1e-5)


def test_float32_turning_rounds_once() -> None:
    x = torch.randn(5, 2, 8).bfloat16()
    angle = torch.rand(5, 1, 8)
    by = Rotation(angle.cos(), angle.sin())
    turned = rotate(x, by.cos_T1C, by.sin_T1C, False)
    assert turned.dtype == torch.bfloat16
    assert torch.equal(turned, rotate(x.float(), by.cos_T1C, by.sin_T1C, False).bfloat16())
