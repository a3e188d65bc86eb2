"""Where a chat template comes from: the checkpoint, one of several by name, or a file of the server's."""

import json
from pathlib import Path

import pytest

from cluster.config import ConfigError, config_from
from cluster.serve.preflight import check_model
from experts.checkpoint.errors import CheckpointError
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.chat_messages import chat_of
from router_service.text.chat import ChatTemplate, load_chat_template
from router_service.text.chats.conversation import Traits
from router_service.text.text_model import load_text_model
from tests.unit.text.family_templates import FAMILIES
from tests.unit.text.family_world import NAMED

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
NAMED_TEMPLATES = [{"name": "default", "template": "default"}, {"name": "tool_use", "template": "{{ tools | length }}"}]


def rendered(template: ChatTemplate | None, chat: pb.Chat) -> str:
    assert template is not None
    return template.render(template.conversation(chat))


def chat(tools: bool = False, **kwargs: object) -> pb.Chat:
    made = chat_of([{"role": "user", "content": "u"}], [TOOL] if tools else ())
    made.template_kwargs = json.dumps(kwargs)
    return made


@pytest.mark.parametrize("place", ["tokenizer_config.json", "jinja"])
def test_the_template_for_tools_is_taken_with_tools(checkpoint: Path, place: str) -> None:
    if place == "jinja":
        (checkpoint / "chat_template.jinja").write_text("default")
        (checkpoint / "additional_chat_templates").mkdir()
        (checkpoint / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools | length }}")
    else:
        (checkpoint / place).write_text(json.dumps({"chat_template": NAMED_TEMPLATES}))
    template = load_chat_template(checkpoint)
    assert rendered(template, chat()) == "default"
    assert rendered(template, chat(tools=True)) == "1"
    without = chat(tools=True)
    without.tool_choice.mode = pb.ToolChoice.NONE
    assert rendered(template, without) == "default"


def test_a_file_replaces_the_checkpoints_template(checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text("{{ eos_token }}{{ a }}{{ b }}")
    text = load_text_model(checkpoint, str(file), {"a": 1, "b": 2})
    assert rendered(text.chat, chat(b=3)) == "<|im_end|>13"


def test_a_wrong_file_is_named(checkpoint: Path, tmp_path: Path) -> None:
    missing = tmp_path / "none.jinja"
    with pytest.raises(CheckpointError, match=rf"^front.chat_template: {missing}: no such file; give the path of"):
        load_chat_template(checkpoint, str(missing))
    with pytest.raises(
        CheckpointError, match=rf"^front.chat_template: {tmp_path}: no ordinary file: it is a directory"
    ):
        load_chat_template(checkpoint, str(tmp_path))
    wrong = tmp_path / "wrong.jinja"
    wrong.write_text("{% if %}")
    with pytest.raises(CheckpointError, match=rf"^front.chat_template: {wrong}: line 1: "):
        load_chat_template(checkpoint, str(wrong))
    wrong.write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match=rf"^front.chat_template: {wrong}: "):
        load_chat_template(checkpoint, str(wrong))


def test_serve_checks_the_file_first(tmp_path: Path) -> None:
    config = config_from({"front": {"chat_template": str(tmp_path / "none.jinja")}, "model": {"device": "cpu"}})
    with pytest.raises(CheckpointError, match=r"front.chat_template: .*none.jinja: no such file"):
        check_model(config)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{", "front.chat_template_kwargs: must be a JSON object, got '{'"),
        ("[]", r"front.chat_template_kwargs: must be a JSON object, got '\[\]'"),
        ('{"tools": []}', "front.chat_template_kwargs: tools is no variable of the template that can be set"),
    ],
)
def test_wrong_variables_of_the_server_are_an_error_of_the_configuration(value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_from({"front": {"chat_template_kwargs": value}})


def test_a_special_token_is_no_variable(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match=r"front.chat_template_kwargs: eos_token is a special token"):
        load_chat_template(checkpoint, kwargs={"eos_token": ""})


TEXT = frozenset(("system", "developer", "user", "assistant", "tool"))
NONE: frozenset[str] = frozenset()


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("qwen3", (TEXT, NONE, False, "missing", False)),
        ("hermes", (TEXT, NONE, False, "missing", False)),
        ("deepseek", (TEXT, NONE, True, "null", False)),
        ("kimi", (NONE, NONE, False, "missing", False)),
        ("llama4 pythonic", (NONE, NONE, False, "missing", False)),
        ("mistral", (TEXT, NONE, False, "missing", False)),
        ("harmony", (TEXT, NONE, False, "missing", True)),
        ("glm", (frozenset(["developer"]), NONE, False, "missing", False)),
        ("parts", (NONE, TEXT, False, "missing", False)),
    ],
)
def test_what_a_template_takes_is_found_out(family: str, expected: tuple[object, ...]) -> None:
    assert fields(ChatTemplate(FAMILIES[family], NAMED).traits()) == expected


@pytest.mark.parametrize(
    ("source", "arguments_text", "no_content"),
    [
        ("{{ x.arguments }}", True, "missing"),
        ("{{ x.arguments | tojson }}", False, "missing"),
        ("{{ messages[1].content + '' if messages[1].content is not none }}{{ x.arguments | tojson }}", False, "null"),
        ("{{ messages[1].content + '' }}{{ x.arguments | tojson }}", False, "empty"),
        ("{{ messages[1].content + '' ~ raise_exception('no calls') }}{{ x.arguments | tojson }}", False, "missing"),
        ("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}{{ x.name }}", False, "missing"),
    ],
)
def test_what_calls_a_template_takes(source: str, arguments_text: bool, no_content: str) -> None:
    call = "{% set x = (messages[1].tool_calls | first).function %}{{ x.name }}" if "x." in source else ""
    traits = ChatTemplate(call + source, {}).traits()
    assert (traits.arguments_text, traits.no_content) == (arguments_text, no_content)


def fields(traits: Traits) -> tuple[object, ...]:
    return traits.text_roles, traits.part_roles, traits.arguments_text, traits.no_content, traits.developer
