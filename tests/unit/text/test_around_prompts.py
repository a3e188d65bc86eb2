"""`add_bos_token` and `add_eos_token` of tokenizer_config.json: for raw prompts, where tokenizer.json adds none."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from experts.checkpoint.errors import CheckpointError
from router_service.front.api.prompts.prompt import encode_input
from router_service.front.routing.length_limits import LengthLimits
from router_service.protocol import inference_pb2 as pb
from router_service.text.text_model import load_text_model
from router_service.text.tokenizer import Tokenizer as OurTokenizer
from router_service.text.tokenizer_files import load_tokenizer
from tests.unit.front.front_fakes import TEMPLATE, byte_level_tokenizer

BOS, EOS = "<|endoftext|>", "<|im_end|>"
ADDS_BOS = processors.TemplateProcessing(f"{BOS} $A", special_tokens=[(BOS, 0)])
ADDS_ANOTHER = processors.TemplateProcessing("<|im_start|> $A", special_tokens=[("<|im_start|>", 1)])
LIMITS = LengthLimits(context=100, prompt=80, vocabulary=512)


def deepseek() -> Tokenizer:
    """Its post-processor trims offsets and adds nothing."""
    tokenizer = byte_level_tokenizer()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def write(directory: Path, tokenizer: Tokenizer | None = None, **config: object) -> Path:
    (tokenizer or deepseek()).save(str(directory / "tokenizer.json"))
    named = {"bos_token": BOS, "eos_token": {"content": EOS, "__type": "AddedToken"}, "chat_template": TEMPLATE}
    (directory / "tokenizer_config.json").write_text(json.dumps(named | config))
    return directory


def load(directory: Path, tokenizer: Tokenizer | None = None, **config: object) -> OurTokenizer:
    return load_tokenizer(write(directory, tokenizer, **config))


@pytest.mark.parametrize("first", [True, False, None])
@pytest.mark.parametrize("last", [True, False, None])
@pytest.mark.parametrize("text", ["hello world", "", " \n"])
def test_a_raw_prompt_has_what_transformers_4_puts_around_it(
    tmp_path: Path, first: bool | None, last: bool | None, text: str
) -> None:
    flags = {"add_bos_token": first, "add_eos_token": last}
    given = {key: value for key, value in flags.items() if value is not None}
    # Flags given beside a tokenizer, not in its file, are still honoured by transformers 5.
    oracle = PreTrainedTokenizerFast(tokenizer_object=deepseek(), bos_token=BOS, eos_token=EOS, **given)
    tokenizer = load(tmp_path, **flags)
    assert tokenizer.encode(text, add_special_tokens=True) == oracle(text)["input_ids"]
    assert tokenizer.encode_parts([text], add_special_tokens=True) == oracle(text)["input_ids"]
    assert tokenizer.encode(text, add_special_tokens=False) == oracle(text, add_special_tokens=False)["input_ids"]


def test_transformers_5_drops_the_keys_of_the_file(tmp_path: Path) -> None:
    """If this fails, it honours them again: then compare with what it does."""
    oracle = PreTrainedTokenizerFast.from_pretrained(write(tmp_path, add_bos_token=True))
    assert oracle("hello")["input_ids"] == oracle("hello", add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("flag", [True, False, None])
def test_what_tokenizer_json_adds_is_not_added_twice_nor_taken_away(tmp_path: Path, flag: bool | None) -> None:
    tokenizer = deepseek()
    tokenizer.post_processor = ADDS_BOS
    loaded = load(tmp_path, tokenizer, add_bos_token=flag)
    assert loaded.encode("hello", add_special_tokens=True) == tokenizer.encode("hello").ids
    assert loaded.encode("hello", add_special_tokens=True).count(0) == 1


def test_another_token_in_front_stays_the_only_one(tmp_path: Path) -> None:
    tokenizer = deepseek()
    tokenizer.post_processor = ADDS_ANOTHER
    assert load(tmp_path, tokenizer, add_bos_token=True).encode("hello", add_special_tokens=True)[:1] == [1]


def test_a_prompt_that_begins_with_it_has_it_once(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, add_bos_token=True, add_eos_token=True)
    plain = tokenizer.encode("hello", add_special_tokens=False)
    assert tokenizer.encode(f"{BOS}hello{EOS}", add_special_tokens=True) == [0, *plain, 2]
    # The text of it, where that is ordinary text, is not it.
    assert tokenizer.encode_parts([f"{BOS}hello"], add_special_tokens=True).count(0) == 1


def test_a_flag_without_its_token(tmp_path: Path) -> None:
    plain = load(tmp_path).encode("hello", add_special_tokens=True)
    assert load(tmp_path, add_bos_token=True, bos_token=None).encode("hello", add_special_tokens=True) == plain
    assert load(tmp_path, add_bos_token=True, bos_token="<none>").encode("hello", add_special_tokens=True) == plain


@pytest.mark.parametrize("key", ["add_bos_token", "add_eos_token"])
def test_a_flag_that_is_none_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(CheckpointError, match=rf"tokenizer_config\.json: {key} is 'yes', it must be true or false"):
        load(tmp_path, **{key: "yes"})


async def test_chats_have_what_their_template_writes(tmp_path: Path) -> None:
    text = load_text_model(write(tmp_path, add_bos_token=True, add_eos_token=True))
    chat = pb.Chat(messages=[pb.Message(role="user", content="hello")])
    ids = (await encode_input(pb.GenerateRequest(chat=chat), text, LIMITS)).ids
    assert ids == text.tokenizer.encode(
        "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n", add_special_tokens=False
    )
    assert (await encode_input(pb.GenerateRequest(prompt="hello"), text, LIMITS)).ids[:1] == [0]
