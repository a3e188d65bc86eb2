"""Chat templates: the same text and tokens as transformers gives."""

import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from experts.checkpoint.errors import CheckpointError
from router_service.text.chat import ChatError, ChatTemplate, load_chat_template
from router_service.text.chats.conversation import Conversation
from router_service.text.checkpoint_files import load_special_tokens
from router_service.text.text_model import load_text_model
from router_service.text.tokenizer_files import load_tokenizer
from tests.unit.front.front_fakes import TEMPLATE, byte_fallback_tokenizer, write_checkpoint

MESSAGES = [
    {"role": "system", "content": "be  brief <b>&"},
    {"role": "user", "content": "h\u00e9llo \U0001f600\n"},
    {"role": "assistant", "content": "a"},
    {"role": "user", "content": "{{ 1 + 1 }}"},
]
TEMPLATES = {
    "chatml": TEMPLATE,
    "blocks and loop controls": """
        {%- set found = namespace(last=0) %}
        {%- for message in messages %}
            {%- if loop.index0 > 2 %}{% continue %}{% endif %}
            {%- set found.last = loop.index0 %}
            {{- bos_token }}[{{ message['role'] | upper }}]
    {% if message.content is string %}
    {{ message.content | trim }}
    {% endif %}
        {%- endfor %}
        {{- found.last }}{{ eos_token }}{{ undefined_name }}{{ pad_token }}""",
    "json": "{{ messages | tojson }}{{ messages | tojson(indent=2) }}{{ tools is none }}{{ documents }}",
    "generation": (
        "{% for message in messages %}{% if message.role == 'assistant' %}{% generation %}"
        "{{ message.content }}{% endgeneration %}{% else %}{{ message.content }}{% endif %}{% endfor %}"
    ),
    "what the environment has": (
        "{{ dict.fromkeys(['a', 'b'], 1) | items | list }}{{ dict(b=1, **{'a': 2}) | dictsort }}"
        "{{ '%s|%d' % ('x', 3) }}"
        "{{ messages | map(attribute='role') | unique | join(', ') }}{{ [3, 1] | sort | first }}"
        "{{ 'a,b'.partition(',') }}"
        "{{ messages | selectattr('role', 'in', ['user']) | list | length }}{{ {'a': [1.0, none]} | tojson(indent=2) }}"
        "{{ {'b': 1, 'a': '<é>'} | tojson(ensure_ascii=True, separators=(',', ':'), sort_keys=True) }}"
        "{% for m in messages %}{% if loop.last %}{% break %}{% endif %}"
        "{{ m.role.title().removesuffix('r') }}{% endfor %}"
        "{% set x %}a{% endset %}{{ x.startswith('a') and x is string and {} is mapping }}{{ 7 // 2 ** 1 }}"
        "{{ ' a '.strip() ~ 'b'.ljust(3) ~ 'A-b'.replace('-', '_').lower() }}{{ messages[-1:][0].content[:2] }}"
    ),
    "date": "{{ strftime_now('%Y-%m') }}{{ dict(a=1).items() | list }}{{ messages[-1].content.split(' ')[0] }}",
}


@pytest.mark.parametrize("kind", TEMPLATES)
def test_parity_with_transformers(checkpoint: Path, kind: str) -> None:
    (checkpoint / "chat_template.jinja").write_text(TEMPLATES[kind])
    oracle = PreTrainedTokenizerFast.from_pretrained(checkpoint)
    template = load_chat_template(checkpoint)
    assert template is not None
    expected = oracle.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    rendered = template.render(Conversation(MESSAGES))
    assert rendered == expected
    ids = oracle.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False)
    assert load_tokenizer(checkpoint).encode(rendered, add_special_tokens=False) == ids


def test_a_prompt_gets_the_special_tokens_that_transformers_adds(tmp_path: Path) -> None:
    byte_fallback_tokenizer().save(str(tmp_path / "tokenizer.json"))
    oracle = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path)
    for prompt in ("hi hi", " a\u4f60\U0001f600", "<s>hi", "\n"):
        assert tokenizer.encode(prompt, add_special_tokens=True) == oracle(prompt)["input_ids"]
    ids = oracle("hi a\u4f60\U0001f600.")["input_ids"]
    assert tokenizer.decode(ids) == oracle.decode(ids, skip_special_tokens=True)


def test_truncation_and_padding_of_the_file_are_ignored(checkpoint: Path) -> None:
    path = checkpoint / "tokenizer.json"
    content = json.loads(path.read_text())
    content["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    path.write_text(json.dumps(content))
    assert len(load_tokenizer(checkpoint).encode("hello world and more", add_special_tokens=True)) > 2


@pytest.mark.parametrize("place", ["config", "named", "json", "jinja"])
def test_every_place_of_a_template(checkpoint: Path, place: str) -> None:
    config = checkpoint / "tokenizer_config.json"
    content = json.loads(config.read_text())
    del content["chat_template"]
    source = "found{{ eos_token }}"
    if place == "config":
        content["chat_template"] = source
    elif place == "named":
        content["chat_template"] = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": source}]
    elif place == "json":
        (checkpoint / "chat_template.json").write_text(json.dumps({"chat_template": source}))
    else:
        (checkpoint / "chat_template.jinja").write_text(source)
    config.write_text(json.dumps(content))
    template = load_chat_template(checkpoint)
    assert template is not None
    assert template.render(Conversation([{"role": "user", "content": ""}])) == "found<|im_end|>"


def test_a_checkpoint_without_template_has_none(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    assert load_text_model(tmp_path).chat is None
    assert load_special_tokens(tmp_path) == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"chat_template": "{% if %}"}, r"tokenizer_config\.json: chat_template: line 1: "),
        (
            {"chat_template": [{"name": "other", "template": "x"}]},
            r"tokenizer_config\.json: chat_template is .*, it must be a template",
        ),
        ({"chat_template": 3}, r"tokenizer_config\.json: chat_template is .*, it must be a template"),
    ],
)
def test_a_wrong_template_is_named(checkpoint: Path, content: dict[str, object], message: str) -> None:
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=message):
        load_chat_template(checkpoint)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0].content.missing.deeper }}", "no attribute"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{% set _ = messages.append(1) %}", "unsafe"),
        ("{{ 1 / 0 }}", "division"),
    ],
)
def test_what_a_template_refuses_is_an_error_of_the_request(source: str, message: str) -> None:
    with pytest.raises(ChatError, match=message):
        ChatTemplate(source, {}).render(Conversation(MESSAGES))
