"""`weights.quantize` in the memory plan, in `inspect`, in the deployment's digest and on the command line."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.cli.main import parser
from cluster.cli.serve.serve_flags import config_of
from cluster.cli.tools.inspect_command import look
from cluster.cli.tools.inspect_text import render
from cluster.config import ConfigError, ModelConfig, config_from
from cluster.planner import config_resolver as resolver
from cluster.planner.available_memory import GIB
from cluster.planner.config_resolver import demands, resolve_here
from cluster.planner.inspection import Inspection
from cluster.planner.memory_plan import DoesNotFitError
from cluster.planner.model import ServedModel, open_model
from cluster.planner.quantize import GROUPS, rounding_of
from experts.config import Quantize, WeightsConfig
from kernels import select
from kernels.formats.rounding import Rounding
from router_service.models.weights import load_router_weights
from tests.support.int4_checkpoints import write_int4
from tests.support.quantize import write_fp8
from tests.support.tiny import Tiny, write_checkpoint

FORMS: tuple[Quantize, ...] = ("int8", "int4")


def opened(path: Path, **weights: Any) -> ServedModel:
    return open_model(ModelConfig(checkpoint=str(path), device="cpu"), WeightsConfig("dequantized", **weights))


def test_what_a_configuration_means() -> None:
    assert rounding_of(WeightsConfig()) is None
    assert rounding_of(WeightsConfig(quantize="int4")) == Rounding("int4", 32)
    assert rounding_of(WeightsConfig(quantize="int8")) == Rounding("int8", 128)
    assert rounding_of(WeightsConfig(quantize="int8", quantize_group=32)) == Rounding("int8", 32)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"quantize": "int3"}, "weights.quantize is 'int3', it must be one of none, int8, int4"),
        ({"quantize_group": 64}, "weights.quantize_group is 64, it must be one of 0, 32, 128"),
        ({"quantize_group": "32"}, "weights.quantize_group is '32', it must be one of 0, 32, 128"),
        ({"quantize_group": True}, "weights.quantize_group is True, it must be one of 0, 32, 128"),
        ({"quantize_scope": "head"}, "weights.quantize_scope is 'head', it must be one of experts, all"),
    ],
)
def test_other_values_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config_from({"weights": values})


def test_the_flag_sets_the_key() -> None:
    args = parser().parse_args(["serve", "--quantize", "int4"])
    assert config_of(args).weights == WeightsConfig(quantize="int4")


@pytest.mark.parametrize("scope", ["experts", "all"])
@pytest.mark.parametrize("form", FORMS)
def test_bytes_by_hand(tmp_path: Path, form: Quantize, scope: Any) -> None:
    write_checkpoint(tmp_path, "qwen3_moe", torch.bfloat16)
    plain, model = opened(tmp_path), opened(tmp_path, quantize=form, quantize_scope=scope)

    def matrix(outputs: int, inputs: int) -> int:
        return outputs * inputs // (2 if form == "int4" else 1) + 2 * outputs * -(-inputs // GROUPS[form])

    assert model.shard_bytes(1) == 2 * (matrix(2 * 24, 48) + matrix(48, 24))
    changed = 3 * (matrix(160, 48) + matrix(48, 96)) + matrix(2 * 56, 48) + matrix(48, 56)
    before = 2 * (3 * (160 * 48 + 48 * 96) + 3 * 56 * 48)
    assert model.router_bytes == plain.router_bytes - (before - changed if scope == "all" else 0)


@pytest.mark.parametrize("form", FORMS)
def test_a_router_reports_what_was_announced(tiny: Callable[..., Tiny], form: Quantize) -> None:
    model, loaded = opened(tiny("deepseek_v3").path, quantize=form, quantize_scope="all"), list[int]()
    load_router_weights(
        checkpoint=model.plan.checkpoint,
        params=model.plan.tensors.router,
        dtype=model.dtype,
        device=model.device,
        ops=select.ops("auto", model.device),
        progress=loaded.append,
    )
    assert sum(loaded) == model.router_bytes


def test_each_setting_is_another_deployment(tiny: Callable[..., Tiny]) -> None:
    path = tiny("qwen3_moe").path
    settings: list[dict[str, Any]] = [
        {},
        {"quantize": "int4"},
        {"quantize": "int8"},
        {"quantize": "int4", "quantize_group": 128},
        {"quantize": "int4", "quantize_scope": "all"},
    ]
    assert len({opened(path, **setting).digest() for setting in settings}) == len(settings)
    assert opened(path, quantize="int4").digest() == opened(path, quantize="int4", quantize_group=32).digest()


def test_what_stays_as_it_is_stored_is_said(tmp_path: Path) -> None:
    """Kimi's experts, which `all` leaves; nothing is said where all is rounded that the setting is about."""
    model = write_checkpoint(tmp_path, "deepseek_v3")
    assert opened(tmp_path, quantize="int8", quantize_scope="all").plan.notices == ()
    write_int4(tmp_path, model, "compressed-tensors", 16)
    assert opened(tmp_path).plan.notices == ()
    (line,) = opened(tmp_path, quantize="int8", quantize_scope="all").plan.notices
    assert "config.json: weights.quantize leaves experts in the quantized format that they are stored in" in line


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Experts of 57 MB in bfloat16."""
    path = tmp_path_factory.mktemp("wide")
    sizes = {"hidden_size": 384, "moe_intermediate_size": 1024, "num_hidden_layers": 3}
    write_checkpoint(path, "deepseek_v3", torch.bfloat16, **sizes)
    return path


def test_a_model_too_large_fits_quantized(wide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused with what would help; taken with it, at the limit that its demand names."""
    monkeypatch.setattr(resolver, "host_bytes", lambda: 64 * GIB)
    config = config_from({"model": {"checkpoint": str(wide), "device": "cpu"}})
    forms = demands(config, open_model(config.model, config.weights))
    needs = {flag: demand.together(2) for flag, demand in forms.others.items() if flag.startswith("--quantize")}
    assert forms.dequantized.together(2) - 30e6 > needs["--quantize int8"] > needs["--quantize int4"] + 10e6

    def limited(bytes: float, quantize: Quantize) -> str:
        limit = config_from(
            {
                "model": {"checkpoint": str(wide), "device": "cpu"},
                "weights": {"quantize": quantize},
                "cluster": {"memory_limit_gib": bytes / GIB},
            }
        )
        return resolve_here(limit, open_model(limit.model, limit.weights)).weights.quantize

    there = needs["--quantize int4"] + 1e6
    with pytest.raises(DoesNotFitError) as caught:
        limited(there, "none")
    assert "--quantize int4 needs" in str(caught.value)
    assert "--quantize int8" not in str(caught.value)
    assert limited(there, "int4") == "int4"
    with pytest.raises(DoesNotFitError):
        limited(needs["--quantize int4"] - 1e6, "int4")


def test_a_30b_model_fits_24_gib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "host_bytes", lambda: 24 * GIB)
    found = look("qwen3-30b-a3b", 2)
    assert found.auto is None
    assert found.smaller == ("--quantize int4",)
    assert found.quantized["int4"].weights == pytest.approx(0.319 * found.dequantized.weights, rel=0.01)
    assert "is refused, the model does not fit; it would with --quantize int4" in render(found)


def test_inspect_shows_what_rounding_would_save(tiny: Callable[..., Tiny], tmp_path: Path) -> None:
    found = look(str(tiny("qwen3_moe").path), 2)
    assert list(found.quantized) == list(FORMS)
    for form in FORMS:
        model = opened(tiny("qwen3_moe").path, quantize=form)
        assert found.quantized[form].expert == model.shard_bytes(1) // 2
        assert found.quantized[form].weights == model.router_bytes + model.shard_bytes(7)
    assert "\n--quantize int4" in render(found)
    model = write_checkpoint(tmp_path, "qwen3_moe")
    write_fp8(tmp_path, model, (16, 16))
    quantized = look(str(tmp_path), 2)
    assert quantized.quantized == {}
    assert "--quantize" not in render(quantized)


def test_what_is_not_known_here_is_not_suggested() -> None:
    """A line without a flag that fits says nothing of flags."""
    found: Inspection = replace(look("qwen3-30b-a3b", 2), auto=None, smaller=())
    assert "the model does not fit\n" in render(found)
