"""What generation_config.json sets is the default of requests, and what it sets in vain is named."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from experts.checkpoint.errors import CheckpointError
from router_service.front.api.sampling import resolve_sampling, stop_strings
from router_service.front.errors import RequestError
from router_service.front.routing.length_limits import LengthLimits
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.messages import SamplingParams
from router_service.text.generation_config import SamplingDefaults
from router_service.text.ignored_settings import log_ignored
from router_service.text.text_model import load_text_model
from tests.support.tiny import make_model
from tests.unit.front.front_fakes import write_checkpoint

LIMITS = LengthLimits(context=100, prompt=80, vocabulary=512)


def defaults_of(directory: Path, **config: object) -> SamplingDefaults:
    return load_text_model(write_checkpoint(directory, config)).defaults


def resolve(defaults: SamplingDefaults, prompt_tokens: int = 10, **fields: Any) -> SamplingParams:
    return resolve_sampling(pb.Sampling(**fields), defaults, LIMITS, prompt_tokens)


@pytest.mark.parametrize(("written", "top_k"), [(-1, 0), (0, 0), (None, 0), (7, 7)])
def test_top_k(tmp_path: Path, written: int | None, top_k: int) -> None:
    assert resolve(defaults_of(tmp_path, top_k=written)).top_k == top_k


@pytest.mark.parametrize("wrong", [-2, 1.5, "7", True])
def test_another_top_k_is_refused(tmp_path: Path, wrong: object) -> None:
    with pytest.raises(CheckpointError, match=r"generation_config\.json: top_k is .*it must be an integer, -1 to"):
        defaults_of(tmp_path, top_k=wrong)


@pytest.mark.parametrize(
    ("config", "prompt", "least", "most"),
    [
        ({"max_new_tokens": 20, "min_new_tokens": 5}, 10, 5, 20),
        # The answer's own length goes before that of prompt and answer, as in transformers.
        ({"max_new_tokens": 20, "max_length": 15, "min_new_tokens": 5, "min_length": 90}, 10, 5, 20),
        ({"max_length": 30, "min_length": 14}, 10, 4, 20),
        ({"max_length": 30, "min_length": 14}, 20, 0, 10),
        ({"max_length": 30}, 40, 0, 1),
        ({"max_length": 4096, "min_length": 4096}, 10, 90, 90),
        ({"min_new_tokens": 500}, 10, 90, 90),
        ({"max_length": None, "min_new_tokens": None}, 10, 0, 90),
    ],
)
def test_lengths(tmp_path: Path, config: dict[str, object], prompt: int, least: int, most: int) -> None:
    params = resolve(defaults_of(tmp_path, **config), prompt)
    assert (params.min_tokens, params.max_tokens) == (least, most)
    assert resolve(defaults_of(tmp_path, **config), prompt, max_tokens=3, min_tokens=2).min_tokens == 2
    assert resolve(defaults_of(tmp_path, **config), prompt, max_tokens=3).min_tokens == min(least, 3)


@pytest.mark.parametrize("config", [{"max_length": 12}, {"max_length": 12, "max_new_tokens": 4}, {"max_length": 3}])
def test_the_longest_answer_is_that_of_transformers(tmp_path: Path, config: dict[str, int]) -> None:
    model = make_model("mixtral")
    model.generation_config = GenerationConfig(**config, pad_token_id=0)
    prompt = torch.tensor([[1, 2, 3, 4, 5]])
    try:
        answer = model.generate(prompt, attention_mask=torch.ones_like(prompt))
    except ValueError:  # of a prompt that is longer than all may be; a server has to say something
        answer = torch.zeros((1, 6))
    assert resolve(defaults_of(tmp_path, **config), 5).max_tokens == answer.shape[1] - 5


def test_stop_strings_end_an_answer_unless_the_request_has_its_own(tmp_path: Path) -> None:
    defaults = defaults_of(tmp_path, stop_strings=["END", "\n\n", "END"])
    assert stop_strings(pb.Sampling(), defaults) == ["END", "\n\n"]
    assert stop_strings(pb.Sampling(stop=["."]), defaults) == ["."]
    assert stop_strings(pb.Sampling(ignore_eos=True), defaults) == []
    assert stop_strings(pb.Sampling(), defaults_of(tmp_path, stop_strings="one")) == ["one"]
    assert stop_strings(pb.Sampling(), defaults_of(tmp_path, stop_strings=None)) == []
    with pytest.raises(RequestError):
        stop_strings(pb.Sampling(stop=[""]), defaults)


@pytest.mark.parametrize("wrong", ["", ["a", 1], ["x" * 257], [str(n) for n in range(17)], 3, ["\ud800"], {"a": 1}])
def test_stop_strings_that_are_none_are_refused(tmp_path: Path, wrong: object) -> None:
    with pytest.raises(CheckpointError, match=r"generation_config\.json: stop_strings is .*it must be a string of"):
        defaults_of(tmp_path, stop_strings=wrong)


NEUTRAL: dict[str, object] = {
    "num_beams": 1,
    "no_repeat_ngram_size": 0,
    "typical_p": 1.0,
    "bad_words_ids": None,
    "suppress_tokens": [],
    "guidance_scale": 1.0,
    "length_penalty": 0.5,
    "epsilon_cutoff": 0.0,
    "cache_implementation": "hybrid",
    "pad_token_id": 0,
    "transformers_version": "5.0.0",
}


def test_what_is_ignored_and_would_change_an_answer_is_named(tmp_path: Path) -> None:
    config = {"num_beams": 4, "bad_words_ids": [[5]], "forced_eos_token_id": 0, "presence_penalty": 1.5, "top_h": 0.4}
    assert defaults_of(tmp_path, **NEUTRAL).ignored == ()
    assert set(defaults_of(tmp_path, **NEUTRAL | config).ignored) == {
        "num_beams=4",
        "bad_words_ids=[[5]]",
        "forced_eos_token_id=0",
        "presence_penalty=1.5",
        "top_h=0.4",
    }


def test_settings_of_drawing_change_nothing_where_the_likeliest_token_is_taken(tmp_path: Path) -> None:
    config = {"typical_p": 0.5, "eta_cutoff": 0.1, "num_beams": 2}
    assert defaults_of(tmp_path, do_sample=False, **config).ignored == ("num_beams=2",)
    assert len(defaults_of(tmp_path, do_sample=True, **config).ignored) == 3


def test_every_setting_of_transformers_is_read_or_named_or_changes_nothing(tmp_path: Path) -> None:
    """A new one in a later version fails here, and has to be thought about."""
    defaults = GenerationConfig().to_dict()
    read = {"temperature", "top_k", "top_p", "min_p", "repetition_penalty", "do_sample", "eos_token_id", "stop_strings"}
    read |= {"max_length", "max_new_tokens", "min_length", "min_new_tokens"}
    # Of caches, outputs, speculation, encoders, beams (length_penalty, early_stopping) and ids that no answer has.
    without = {"use_cache", "cache_implementation", "cache_config", "max_cache_len", "return_dict_in_generate"}
    without |= {key for key in defaults if key.startswith(("output_", "assistant_", "num_assistant_", "target_", "_"))}
    without |= {"early_stopping", "length_penalty", "diversity_penalty", "low_memory", "renormalize_logits"}
    without |= {"is_assistant", "prompt_lookup_num_tokens", "max_matching_ngram_size", "speculation_type", "use_mtp"}
    without |= {"compile_config", "disable_compile", "continuous_batching_config", "prefill_chunk_size"}
    without |= {"pad_token_id", "bos_token_id", "decoder_start_token_id", "transformers_version"}
    without |= {"remove_invalid_values"}  # a NaN ends the answer, with an error
    others = [key for key in defaults if key not in read | without]
    config = {key: [[9]] for key in others}
    named = {setting.partition("=")[0] for setting in defaults_of(tmp_path, **config).ignored}
    assert named == set(others)


def test_nothing_ignored_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    log_ignored(())
    assert caplog.records == []


def test_null_keeps_what_is_built_in(tmp_path: Path) -> None:
    nothing = json.loads(json.dumps(dict.fromkeys(GenerationConfig().to_dict())))
    assert defaults_of(tmp_path, **nothing) == SamplingDefaults(eos_token_ids=(2,))
