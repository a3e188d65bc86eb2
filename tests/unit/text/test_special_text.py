"""Special tokens' texts that a caller writes: in a chat they are text, whatever the template and the tokenizer."""

import asyncio
import json
from collections.abc import Callable
from itertools import cycle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers

from router_service.front.api.prompts.prompt import encode_request
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.chat_messages import chat_of
from router_service.text.chat import ChatTemplate
from router_service.text.chats.conversation import Conversation
from router_service.text.generation_config import SamplingDefaults
from router_service.text.json_tokenizer import JsonTokenizer
from router_service.text.special_text import SpecialTexts, unmarked
from router_service.text.text_model import TextModel
from router_service.text.tokenizer import Tokenizer
from tests.unit.front.front_fakes import SPECIALS, byte_fallback_tokenizer, byte_level_tokenizer
from tests.unit.text.family_templates import FAMILIES
from tests.unit.text.family_world import NAMED, family_tokenizer
from tests.unit.text.tiktoken_fakes import kimi_tokenizer

TOKENIZER = JsonTokenizer(family_tokenizer())
# Some without a full form of any, which others could complete.
PIECES = [
    *sorted(TOKENIZER.controls),
    "<|im_",
    "start|>",
    "|>",
    "im_end|>",
    "<|",
    "<",
    "<\uff5cUser",
    "\uff5c>",
    "[",
    "<|im_start<|im_end|>",
]
WORDS = st.lists(st.sampled_from([*PIECES, "a", " ", "\n", "\u00e9 b", "\U0001f600"]), max_size=5).map("".join)
PLAIN = st.text(st.sampled_from("ab \n\u00e9"), max_size=6)
BASIC = settings(max_examples=60, deadline=None)


@pytest.fixture(scope="module")
def templates() -> dict[str, ChatTemplate]:
    return {name: ChatTemplate(source, NAMED) for name, source in FAMILIES.items()}


def model(tokenizer: Tokenizer, template: ChatTemplate | None) -> TextModel:
    return TextModel(tokenizer, template, SamplingDefaults(eos_token_ids=(0,)))


def ids_of(text: TextModel, **fields: Any) -> list[int]:
    return asyncio.run(encode_request(pb.TokenizeRequest(**fields), text))


def chat(words: Callable[[], str]) -> pb.Chat:
    """A conversation with all kinds of texts, each of which `words` makes."""
    call = {"id": "abcdefghi", "function": {"name": "f" + words(), "arguments": json.dumps({"k" + words(): words()})}}
    schema = {"type": "object", "properties": {"p": {"type": "string", "description": words()}}}
    function = {"name": "f", "description": words(), "parameters": schema}
    made = chat_of(
        [
            {"role": "system", "content": "s" + words()},
            {"role": "user", "content": "u" + words()},
            {"role": "assistant", "content": "a" + words(), "reasoning_content": words(), "tool_calls": [call]},
            {"role": "tool", "name": "f" + words(), "tool_call_id": "abcdefghi", "content": "t" + words()},
            {"role": "user", "content": [{"type": "text", "text": "x" + words()}, {"type": "text", "text": words()}]},
        ],
        [{"type": "function", "function": function}],
    )
    made.documents.append(json.dumps({"doc_id": "1", "text": "d" + words()}))
    made.template_kwargs = json.dumps({"date_string": "n" + words(), "reasoning_effort": words()})
    return made


@pytest.mark.parametrize("family", FAMILIES)
@given(words=st.lists(WORDS, min_size=1, max_size=7))
@settings(max_examples=30, deadline=None)
def test_a_chat_has_the_special_tokens_of_its_template_only(
    templates: dict[str, ChatTemplate], family: str, words: list[str]
) -> None:
    text = model(TOKENIZER, templates[family])
    plain = ids_of(text, chat=chat(lambda: "w"))
    mixed = chat(taken_from(words))
    ids = ids_of(text, chat=mixed)
    controls = set(TOKENIZER.controls.values())
    assert [id for id in ids if id in controls] == [id for id in plain if id in controls]
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == rendered(templates[family], mixed)


@pytest.mark.parametrize("family", FAMILIES)
@given(words=st.lists(PLAIN, min_size=1, max_size=7))
@settings(max_examples=10, deadline=None)
def test_without_their_texts_nothing_changes(templates: dict[str, ChatTemplate], family: str, words: list[str]) -> None:
    text = model(TOKENIZER, templates[family])
    made = chat(taken_from(words))
    expected = TOKENIZER.encode(rendered(templates[family], made), add_special_tokens=False)
    assert ids_of(text, chat=made) == ids_of(text, chat=made, allow_special_tokens=True) == expected


def taken_from(words: list[str]) -> Callable[[], str]:
    """Take one after the other, over and over."""
    taken = cycle(words)
    return lambda: "w" + next(taken)


def rendered(template: ChatTemplate, chat: pb.Chat) -> str:
    return template.render(template.conversation(chat))


def with_steps() -> JsonTokenizer:
    """Tokens that take the spaces beside them, and a normalizer that changes texts."""
    tokenizer = byte_level_tokenizer()
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.add_special_tokens([AddedToken("<R>", rstrip=True), AddedToken("<L>", lstrip=True)])
    tokenizer.add_special_tokens([AddedToken("<n>", normalized=True)])
    tokenizer.add_tokens([AddedToken("<tag>", special=False, normalized=False)])
    return JsonTokenizer(tokenizer)


TOKENIZERS: dict[str, Tokenizer] = {
    "byte-level": JsonTokenizer(byte_level_tokenizer()),
    "byte-fallback": JsonTokenizer(byte_fallback_tokenizer()),
    "with steps": with_steps(),
    "tiktoken": kimi_tokenizer(),
    "families": TOKENIZER,
}
TEXTS = st.text(st.sampled_from("hia \n\u4f60\U0001f600\ufb01A.1"), max_size=8)


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(data=st.data())
@BASIC
def test_parts_are_encoded_as_the_whole_is(kind: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[kind]
    names = sorted(tokenizer.controls)[:20]
    pieces = data.draw(st.lists(st.one_of(TEXTS, st.sampled_from([*names, "<tag>", "</think>"])), max_size=6))
    whole = "".join(pieces)
    parts = SpecialTexts(tokenizer.controls).split(whole, "")
    for added in (True, False):
        assert tokenizer.encode_parts(parts, added) == tokenizer.encode(whole, added)


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(data=st.data())
@BASIC
def test_a_prompt_without_special_tokens(kind: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[kind]
    text = model(tokenizer, None)
    prompt = "".join(data.draw(st.lists(st.one_of(TEXTS, st.sampled_from(sorted(tokenizer.controls)[:9])), min_size=1)))
    ids = ids_of(text, prompt=prompt, allow_special_tokens=False, add_special_tokens=False)
    assert not set(ids) & set(tokenizer.controls.values()) - set(unknown(tokenizer))
    if kind in ("byte-level", "tiktoken", "families"):
        assert tokenizer.decode(ids, skip_special_tokens=False) == prompt
    assert ids_of(text, prompt=prompt) == tokenizer.encode(prompt, add_special_tokens=True) if prompt else True


def unknown(tokenizer: Tokenizer) -> list[int]:
    id = tokenizer.id_of("<unk>")
    return [] if id is None else [id]


def test_what_is_a_control() -> None:
    assert {"<|im_start|>", "<\uff5cUser\uff5c>", "[INST]"} <= TOKENIZER.controls.keys()
    # Answers have these as text, and prompts quote them.
    assert not {"<think>", "<tool_call>"} & TOKENIZER.controls.keys()
    assert TOKENIZERS["tiktoken"].controls.keys() >= {"[BOS]", "<|im_user|>"}
    assert "</think>" not in TOKENIZERS["tiktoken"].controls


def test_it_is_the_special_token_where_the_caller_wants_it() -> None:
    text = model(JsonTokenizer(byte_level_tokenizer()), ChatTemplate("{{ messages[0].content }}", {}))
    made = chat_of([{"role": "user", "content": "a<|im_end|>"}])
    assert ids_of(text, chat=made)[-1] != SPECIALS.index("<|im_end|>")
    assert ids_of(text, chat=made, allow_special_tokens=True)[-1] == SPECIALS.index("<|im_end|>")
    assert ids_of(text, prompt="a<|im_end|>")[-1] == SPECIALS.index("<|im_end|>")


@pytest.mark.parametrize("content", ["<|im_start|>", "a <|im_end|> ", "b <|im_"])
def test_a_message_that_goes_on_behind_one(templates: dict[str, ChatTemplate], content: str) -> None:
    text = model(TOKENIZER, templates["qwen3"])
    made = chat_of([{"role": "user", "content": "u"}, {"role": "assistant", "content": content}])
    made.continue_final_message = True
    ids = ids_of(text, chat=made)
    assert TOKENIZER.decode(ids, skip_special_tokens=False).endswith(f"assistant\n<think>\n\n</think>\n\n{content}")
    assert sum(id in TOKENIZER.controls.values() for id in ids) == 3


@pytest.mark.parametrize("source", ["{{ x | tojson(ensure_ascii=True) }}", "{{ x }}", "{{ [x] }}", "{{ x | upper }}"])
def test_the_mark_is_in_no_text_however_it_is_spelled(source: str) -> None:
    template = ChatTemplate(source.replace("x", "messages[0].content"), {})
    special = SpecialTexts({"<|im_start|>": 1})
    marks = "".join(chr(code) for code in range(0xFDD3, 0xFDD9)) + "\\ufdd9\ufdda"
    conversation = Conversation([{"role": "user", "content": f"{marks}<|im_start|>\u00e9"}])
    changed, mark = special.marked(conversation)
    assert mark
    assert unmarked(template.render(changed), mark) == template.render(conversation)


def test_tokens_that_overlap_are_all_broken() -> None:
    special = SpecialTexts({"<|a|>": 1, "|><|b|>": 2, "<|a|><|b": 3})
    changed, mark = special.marked(Conversation([{"role": "user", "content": "<|a|><|b|>"}]))
    assert special.split(changed.messages[0]["content"], mark) == ["<|a|><|b|>"]


def test_two_texts_do_not_make_a_special_token_together() -> None:
    special = SpecialTexts({"<|a|>": 1})
    messages = [{"role": "user", "content": "x<|"}, {"role": "user", "content": "a|>"}]
    changed, mark = special.marked(Conversation(messages))
    joined = "".join(message["content"] for message in changed.messages)
    assert special.split(joined, mark) == ["x<|a|>"]


@pytest.mark.parametrize(("before", "text", "after"), [("<", "|a|>", ""), ("<|a", "|>", ""), ("", "<|a", "|>")])
def test_a_text_does_not_make_one_with_the_template(before: str, text: str, after: str) -> None:
    special = SpecialTexts({"<|a|>": 1})
    changed, mark = special.marked(Conversation([{"role": "user", "content": text}]))
    assert special.split(before + changed.messages[0]["content"] + after, mark) == ["<|a|>"]


def test_the_longest_of_many_is_found() -> None:
    texts = {f"<|{'x' * length}{end}": length for length in range(1, 40) for end in ("", "|>")}
    special = SpecialTexts(texts)
    whole = f"a<|{'x' * 30}|><|{'x' * 60}"
    assert special.split(whole, "") == ["a", 30, "", 39, "x" * 21]


def test_names_of_fields_are_not_broken() -> None:
    special = SpecialTexts({"tool": 1, "content": 2})
    changed, _ = special.marked(Conversation([{"role": "tool", "content": "a tool"}]))
    assert changed.messages[0].keys() == {"role", "content"}
    assert changed.messages[0]["role"] == "tool"
    assert changed.messages[0]["content"] != "a tool"


def test_a_tokenizer_without_special_tokens() -> None:
    special = SpecialTexts({})
    conversation = Conversation([{"role": "user", "content": "<|im_start|>"}])
    assert special.marked(conversation) == (conversation, "")
    assert special.split("a", "") == ["a"]
