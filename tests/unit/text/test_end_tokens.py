"""End-of-sequence tokens are those that any file of a checkpoint names, the same for Fronts and routers."""

import json
from pathlib import Path

import pytest
from transformers import GenerationConfig

from experts.checkpoint.errors import CheckpointError
from router_service.text.end_tokens import checkpoint_end_tokens, end_token_ids
from router_service.text.text_model import load_text_model
from tests.support.mesh import Mesh
from tests.support.tiny import make_tiny
from tests.unit.front.front_fakes import byte_level_tokenizer, write_checkpoint


def write(directory: Path, **files: dict[str, object]) -> Path:
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    return directory


CONFIGS: list[tuple[dict[str, object], dict[str, object], tuple[int, ...]]] = [
    ({}, {}, (2,)),
    ({"eos_token_id": None}, {"eos_token_id": None}, (2,)),
    ({"eos_token_id": 5}, {}, (5, 2)),
    ({}, {"eos_token_id": [7, 5]}, (7, 5, 2)),
    ({"eos_token_id": [5, 7]}, {"eos_token_id": [9, 7]}, (5, 7, 9, 2)),
    ({"eos_token_id": 2}, {"text_config": {"eos_token_id": 4}}, (2, 4)),
    ({}, {"eos_token_id": 3, "llm_config": {"eos_token_id": [4]}}, (3, 4, 2)),
    ({}, {"thinker_config": {"text_config": {"eos_token_id": 6}}, "text_config": None}, (6, 2)),
    ({}, {"vision_config": {"eos_token_id": 6}}, (2,)),
    # Of a vocabulary that the model does not have: left out where a request's are made.
    ({"eos_token_id": 9_999_999}, {}, (9_999_999, 2)),
]


@pytest.mark.parametrize(("generation", "config", "expected"), CONFIGS)
def test_the_union_of_all_files(
    tmp_path: Path, generation: dict[str, object], config: dict[str, object], expected: tuple[int, ...]
) -> None:
    write(write_checkpoint(tmp_path), generation_config=generation, config=config)
    assert load_text_model(tmp_path).defaults.eos_token_ids == expected
    assert checkpoint_end_tokens(tmp_path) == expected
    own = GenerationConfig.from_pretrained(tmp_path).eos_token_id
    assert {*([own] if isinstance(own, int) else own or [])} <= set(expected)


def test_a_checkpoint_without_a_tokenizer_has_those_of_its_configurations(tmp_path: Path) -> None:
    write(tmp_path, config={"eos_token_id": 7}, tokenizer_config={"eos_token": "</s>"})
    assert checkpoint_end_tokens(tmp_path) == (7,)


def test_an_end_token_that_the_tokenizer_does_not_have(tmp_path: Path) -> None:
    assert end_token_ids(write(tmp_path, tokenizer_config={"eos_token": "</s>"}), lambda _: None) == ()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"eos_token_id": "2"}, "config.json: eos_token_id is '2', it must be a token id or a list of them"),
        (
            {"text_config": {"eos_token_id": [-1]}},
            "config.json: text_config.eos_token_id is [-1], it must be a token id",
        ),
        ({"text_config": [1]}, "config.json: text_config is [1], it must be an object"),
    ],
)
def test_what_is_no_id_is_refused_by_file_and_key(tmp_path: Path, config: dict[str, object], message: str) -> None:
    write(write_checkpoint(tmp_path), config=config)
    for load in (load_text_model, checkpoint_end_tokens):
        with pytest.raises(CheckpointError) as caught:
            load(tmp_path)
        assert message in str(caught.value)


def test_a_router_ends_at_the_same_tokens_as_its_front(tmp_path: Path) -> None:
    tiny = make_tiny(tmp_path, "qwen3_moe")
    byte_level_tokenizer().save(str(tmp_path / "tokenizer.json"))
    write(tmp_path, generation_config={"eos_token_id": [5]}, tokenizer_config={"eos_token": "<|im_end|>"})
    config = json.loads((tmp_path / "config.json").read_text())
    write(tmp_path, config=config | {"eos_token_id": 9})
    assert Mesh(tiny.plan).engine.eos_token_ids == set(load_text_model(tmp_path).defaults.eos_token_ids) == {5, 9, 2}
