"""`expertmesh inspect`: the published shapes against what their publishers say, and checkpoints against their files."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from cluster.cli.main import main, parser
from cluster.cli.serve.serve_command import run_cluster
from cluster.cli.tools.inspect_command import look
from cluster.cli.tools.inspect_text import numbers
from cluster.planner.published_models import published_names
from cluster.planner.sizes import Kind, kind_of, stored_tensors
from cluster.planner.wire_traffic import expected_shards_asked, layer_traffic, most_shards_asked
from experts.placement import even_placement
from experts.transport.call import ExpertCall, Form, Partial, Stamps, pack_call, pack_partial
from tests.support.formats import FORMATS, write_format
from tests.support.quantize import SINGLE, write_fp8, write_mxfp4
from tests.support.tiny import FAMILIES, Tiny, write_checkpoint

REPOSITORY = Path(__file__).parents[3]
WITH, WITHOUT = "with the embedding table", "without the embedding table"
# Name: total and active in billions as published, the decimals that they have, and how the publisher counts.
PUBLISHED: dict[str, tuple[float, float, tuple[int, int], tuple[str, ...]]] = {
    "mixtral-8x7b": (46.7, 12.9, (1, 1), (WITH,)),
    "qwen3-235b-a22b": (235, 22, (0, 0), (WITH, WITHOUT)),
    "deepseek-v3": (671, 37, (0, 0), (WITHOUT,)),
    "kimi-k2": (1000, 32, (-3, 0), (WITHOUT,)),
    "llama-4-scout": (109, 17, (0, 0), (WITH,)),
    "llama-4-maverick": (400, 17, (-1, 0), (WITH,)),
    "gpt-oss-120b": (116.83, 5.13, (2, 2), (WITHOUT,)),
    "gpt-oss-20b": (20.91, 3.61, (2, 2), (WITHOUT,)),
    "olmoe-1b-7b": (6.9, 1.3, (1, 1), (WITH,)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_that_publishers_name(name: str) -> None:
    total, active, decimals, conventions = PUBLISHED[name]
    found = look(name, 2)
    # Publishers of a multimodal model count its image side, of which a text token uses nothing.
    counted = found.parameters.total + sum(one.parameters for one in found.skipped)
    assert round(counted / 1e9, decimals[0]) == total
    ways = {WITH: found.parameters.active, WITHOUT: found.active_without_embedding}
    assert tuple(way for way, number in ways.items() if round(number / 1e9, decimals[1]) == active) == conventions


def test_qwen3_30b_is_published_cut_not_rounded() -> None:
    """30.5B and 3.3B: 3.35B with the embedding table, cut behind the first decimal."""
    found = look("qwen3-30b-a3b", 2)
    assert round(found.parameters.total / 1e9, 1) == 30.5
    assert found.parameters.active // 10**8 == 33
    assert {*PUBLISHED, "qwen3-30b-a3b"} == set(published_names())


def test_published_bytes() -> None:
    """MXFP4 takes 4.25 bits a weight and FP8 a byte and 4 bytes for each 128 x 128."""
    oss, deepseek = look("gpt-oss-120b", 2), look("deepseek-v3", 2)
    matrices = 36 * 128 * 3 * 2880 * 2880
    assert oss.stored[Kind.EXPERTS]["U8"] == matrices * 17 // 32
    assert oss.stored[Kind.EXPERTS]["BF16"] == 36 * 128 * 3 * 2880 * 2
    assert oss.stored[Kind.ATTENTION].keys() == oss.stored[Kind.OUTER].keys() == {"BF16"}
    matrices = 58 * 256 * 3 * 7168 * 2048
    assert deepseek.stored[Kind.SMALL].keys() | deepseek.stored[Kind.OUTER].keys() == {"BF16", "F32"}
    assert deepseek.stored[Kind.EXPERTS] == {"F8_E4M3": matrices, "F32": matrices // 128**2 * 4}
    assert deepseek.cache.per_token == 61 * 576 * 2
    assert deepseek.cache.uncompressed_per_token == 61 * 128 * (192 + 128) * 2
    assert [one.reason.partition(" (")[0] for one in deepseek.skipped] == ["multi-token prediction"]
    assert deepseek.packed is not None
    assert deepseek.packed.expert == 3 * 7168 * 2048 + 3 * 56 * 16 * 4
    assert look("mixtral-8x7b", 2).packed is None
    assert look("mixtral-8x7b", 2).cache.uncompressed_per_token is None


@pytest.mark.parametrize(
    ("name", "per_layer", "last", "limited", "layers"),
    [
        ("gpt-oss-20b", 2 * 8 * 64 * 2, 128, range(0, 24, 2), 24),
        ("llama-4-scout", 2 * 8 * 128 * 2, 8192, [n for n in range(48) if n % 4 != 3], 48),
        ("deepseek-v3", 576 * 2, None, (), 61),
    ],
)
def test_layers_that_do_not_keep_the_whole_context(
    name: str, per_layer: int, last: int | None, limited: Sequence[int], layers: int
) -> None:
    found = look(name, 2)
    cache, whole = found.cache, layers - len(limited)
    assert cache.per_token == layers * per_layer
    assert {(g.last_tokens, g.layers) for g in cache.groups if g.last_tokens} == {(last, tuple(limited))} - {(None, ())}
    assert cache.per_sequence == (whole * found.context + len(limited) * (last or 0)) * per_layer
    assert cache.per_sequence == sum(group.per_sequence for group in cache.groups)
    assert cache.per_token == sum(group.per_token for group in cache.groups)
    # As many tokens of such sequences as fit, and not one more.
    each = cache.per_sequence / found.context
    assert cache.tokens_per_gib * each <= 1 << 30 < (cache.tokens_per_gib + 1) * each
    if last is None:
        assert cache.tokens_per_gib == (1 << 30) // cache.per_token


def test_windows_of_a_directory_are_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Qwen2's, in the even layers below a limit; a window as long as the context leaves nothing out."""
    windows = {"use_sliding_window": True, "max_window_layers": 2}
    model = write_checkpoint(tmp_path / "some", "qwen2_moe", **windows, sliding_window=9)
    layers, context = model.config.num_hidden_layers, model.config.max_position_embeddings
    (limited,) = [group for group in look(str(tmp_path / "some"), 2).cache.groups if group.last_tokens]
    assert (limited.kind, limited.last_tokens) == ("window", 9)
    assert limited.per_sequence == 9 * limited.per_token
    assert len(limited.layers) < layers
    assert main(["inspect", str(tmp_path / "some")]) == 0
    assert f"{len(limited.layers)} layers (" in (said := capsys.readouterr().out)
    assert ") keep only the last 9 tokens" in said
    write_checkpoint(tmp_path / "none", "qwen2_moe", **windows, sliding_window=context)
    cache = look(str(tmp_path / "none"), 2).cache
    assert cache.per_sequence == context * cache.per_token
    assert not any(group.last_tokens for group in cache.groups)


@pytest.mark.parametrize(
    ("rising", "said"),
    [
        ([], ""),
        ([4], "4"),
        ([0, 1, 2, 5, 7, 8], "0-2, 5, 7-8"),
        (range(0, 36, 2), "0, 2, ..., 34"),
        (range(9), "0-8"),
        ([1, 3, 5], "1, 3, 5"),
    ],
)
def test_numbers_in_few_characters(rising: Sequence[int], said: str) -> None:
    assert numbers(rising) == said


@pytest.mark.parametrize("family", FAMILIES)
def test_a_directory_is_counted_as_its_file_and_its_oracle(tiny: Callable[..., Tiny], family: str) -> None:
    made = tiny(family)
    found = look(str(made.path), 3)
    assert found.stored_bytes == sum(t.nbytes for t in load_file(made.path / SINGLE).values())
    assert found.parameters.total == sum(p.numel() for p in made.oracle.parameters()) + _buffers(made.oracle)
    assert found.stored_tensors == len(load_file(made.path / SINGLE))
    assert found.dequantized.weights == found.stored_bytes
    assert found.packed is None


def _buffers(model: Any) -> int:
    """DeepSeek's correction bias is stored, but no parameter."""
    return sum(b.numel() for n, b in model.named_buffers() if n.endswith("e_score_correction_bias"))


def test_kinds_of_all_families(tiny: Callable[..., Tiny]) -> None:
    """By the makers' names, which say it in other words than ours."""
    marks = {
        Kind.EXPERTS: (".experts.",),
        Kind.SHARED: ("shared_expert",),
        Kind.DENSE: ("mlp.", "feed_forward."),
        Kind.ATTENTION: ("_proj", "sinks"),
        Kind.OUTER: ("embed_tokens", "lm_head"),
        Kind.SMALL: ("norm", "gate.", "router", "shared_expert_gate", "e_score"),
    }
    seen = set[Kind]()
    for family in FAMILIES:
        for kind, stored in stored_tensors(tiny(family).plan.tensors):
            seen.add(kind)
            assert any(mark in stored.name for mark in marks[kind]), (kind, stored.name)
            if kind is Kind.ATTENTION:
                assert "self_attn" in stored.name
    assert seen == set(Kind)
    assert kind_of("3.shared_gate") is Kind.SMALL


@pytest.mark.parametrize("form", ["fp8", "mxfp4", "fp8-channel", "int8", "nvfp4"])
def test_a_quantized_directory(tmp_path: Path, form: str) -> None:
    family = "gpt_oss" if form == "mxfp4" else "qwen3_moe" if form in FORMATS else "deepseek_v3"
    sixteens = {"moe_intermediate_size": 32, "intermediate_size": 64} if form in FORMATS else {}
    model = write_checkpoint(tmp_path, family, torch.bfloat16, **sixteens)
    if form in FORMATS:
        write_format(tmp_path, model, FORMATS[form])
    else:
        write_mxfp4(tmp_path, model) if form == "mxfp4" else write_fp8(tmp_path, model, (16, 16))
    found = look(str(tmp_path), 2, "float32")
    by_dtype: dict[str, int] = {}
    names = {torch.bfloat16: "BF16", torch.float32: "F32", torch.float8_e4m3fn: "F8_E4M3", torch.uint8: "U8"}
    names[torch.int8] = "I8"
    for tensor in load_file(tmp_path / SINGLE).values():
        by_dtype[names[tensor.dtype]] = by_dtype.get(names[tensor.dtype], 0) + tensor.nbytes
    for dtype, size in by_dtype.items():
        assert sum(held.get(dtype, 0) for held in found.stored.values()) == size
    assert found.packed is not None
    assert found.packed.weights < found.dequantized.weights == 4 * found.parameters.total


def test_what_quantization_leaves_out_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_checkpoint(tmp_path, "qwen3_moe")
    write_format(tmp_path, model, FORMATS["modelopt-fp8"], input_scale=torch.tensor(0.5))
    scales = sum(name.endswith(".input_scale") for name in load_file(tmp_path / SINGLE))
    (one,) = look(str(tmp_path), 2).skipped
    assert (one.reason, one.tensors, one.bytes) == ("activation scales", scales, 4 * scales)
    assert main(["inspect", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert said.count(f"{scales} tensors of activation scales are not used and not loaded") == 1
    assert said.count("quant_algo FP8 is applied to weights only") == 1


def test_what_is_skipped_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_checkpoint(tmp_path, "deepseek_v3")
    tensors = load_file(tmp_path / SINGLE)
    tensors["model.layers.3.eh_proj.weight"] = torch.zeros(48, 96)
    tensors["model.layers.3.enorm.weight"] = torch.zeros(48)
    save_file(tensors, tmp_path / SINGLE)
    (one,) = look(str(tmp_path), 2).skipped
    assert (one.reason, one.tensors, one.bytes) == ("multi-token prediction", 2, (48 * 96 + 48) * 4)
    assert main(["inspect", str(tmp_path)]) == 0
    notice = "2 tensors of multi-token prediction are not used and not loaded"
    assert capsys.readouterr().out.count(notice) == 1
    # What `serve` does behind its checks is not this test's.
    args = parser().parse_args(["serve", str(tmp_path), "--device", "cpu"])
    assert run_cluster(args, lambda *_: None, start=lambda *_: 0) == 0
    assert capsys.readouterr().err.count(notice) == 1


def test_tied_embeddings_are_counted_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    oracle = write_checkpoint(tmp_path, "mixtral", tie_word_embeddings=True)
    found = look(str(tmp_path), 2)
    assert found.parameters.total == sum(p.numel() for p in oracle.parameters())
    assert found.active_without_embedding == found.parameters.active
    assert main(["inspect", str(tmp_path)]) == 0
    assert "it is the head too" in capsys.readouterr().out


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 5))
def test_shards_asked_by_counting_all_choices(experts: int, shards: int, top_k: int) -> None:
    shards, top_k = min(shards, experts), min(top_k, experts)
    placement = even_placement(experts, shards)
    choices = list(combinations(range(experts), top_k))
    asked = [len({int(placement.everywhere.home_of_E[expert]) for expert in choice}) for choice in choices]
    held = tuple(len(placement.held_by(shard)) for shard in range(shards))
    assert expected_shards_asked(top_k, held) * len(choices) == sum(asked)
    assert most_shards_asked(top_k, held) == max(asked)


def test_traffic_is_what_the_data_plane_packs() -> None:
    """Against the real messages of a token that asks two shards, without their heads of 64 bytes."""
    import numpy as np

    x_RD, one = torch.zeros((1, 96), dtype=torch.bfloat16), np.zeros(2, dtype=np.int32)
    question = pack_call(ExpertCall(0, x_RD, one, one, np.ones(2, dtype=np.float32)))
    answer = pack_partial(Partial(torch.zeros((1, 96)), Stamps(0, 0, 0)))
    sent, back = (sum(memoryview(part).nbytes for part in parts) - 64 for parts in (question, answer))
    counted = layer_traffic(96, 2, top_k=4, shards_asked=2)
    assert (counted.dispatch_bytes, counted.combine_bytes) == (2 * sent, 2 * back)
    each = pack_partial(Partial(torch.zeros((2, 96)), Stamps(0, 0, 0), form=Form.EACH))
    assert counted.exact_combine_bytes == 2 * (sum(memoryview(part).nbytes for part in each) - 64)


def test_json_holds_plain_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "deepseek-v3", "--shards", "5", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["parameters"]["total"] == 671026419200
    assert said["shards"] == 5
    assert said["dequantized"]["shard"] == 52 * 58 * 3 * 7168 * 2048 * 2
    assert said["stored"]["experts"]["F8_E4M3"] == 58 * 256 * 3 * 7168 * 2048
    (group,) = said["cache"]["groups"]
    assert (group["kind"], group["last_tokens"], group["layers"]) == ("latent", None, list(range(61)))


def test_text_says_what_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "llama-4-scout"]) == 0
    said = capsys.readouterr().out
    for words in (
        "1 of 16 experts",
        "sigmoid",
        "expert's input",
        "17.17B",
        "16.14B",
        "vision",
        "871.93M",
        "even routing",
        "36 layers (0-2, 4-6, 8-10,",
        ") keep only the current chunk, at most 8192 tokens",
        "a sequence of the whole context, 10485760 tokens",
    ):
        assert words in said
    assert max(map(len, said.splitlines())) < 220


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gpt-6"], "known model; give a directory or one of deepseek-v3, gpt-oss-120b"),
        (["/no/such/place"], "/no/such/place: no such checkpoint directory"),
        (["mixtral-8x7b", "--shards", "9"], "shards is 9, it must be from 1 to 8"),
    ],
)
def test_errors_are_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", *arguments]) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert (shown.err.count("\n"), shown.out) == (1, "")


def test_a_directory_without_a_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path)]) == 2
    assert f"{tmp_path}: no config.json: not a Hugging Face checkpoint directory" in capsys.readouterr().err


def test_neither_ray_nor_weights_are_touched(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "mixtral")
    code = (
        "import sys; from cluster.cli.main import main; "
        "import experts.checkpoint.directory as d; d.MappedFile = None; "
        "code = main(['inspect', sys.argv[1]]); assert not [m for m in sys.modules if m.split('.')[0] == 'ray']; "
        "sys.exit(code)"
    )
    for model in (str(tmp_path), "kimi-k2"):
        done = subprocess.run([sys.executable, "-c", code, model], cwd=REPOSITORY, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "parameters" in done.stdout
