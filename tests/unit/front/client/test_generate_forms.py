"""`expertmesh generate`: several answers, echo, what answers must be, and chats whose parts are taken out."""

import json
from pathlib import Path
from typing import Any

import pytest

from router_service.protocol.messages import Structured
from router_service.text.tokenizer import Tokenizer
from tests.unit.front.api.test_answer_ends import ids_of_text, says
from tests.unit.front.commands import command, serve
from tests.unit.front.front_world import World
from tests.unit.front.tagged_answers import TaggedAnswers

SCHEMA = '{"type": "object"}'
LARK = 'start: "a" | "b"'


async def test_several_answers_are_printed_one_behind_the_other(world: World) -> None:
    target = await serve(world)
    ids = await world.clients[0].tokenize("hello")
    flags = ("--n", "3", "--echo", "--max-tokens", str(len(ids)), "--top-k", "-1", "--seed", "4")
    code, out, err = await command("generate", "hello", *flags, target=target)
    assert (code, err) == (0, "")
    assert out == "hello\n" + "".join(f"--- answer {number} ---\nhello\n" for number in (1, 2, 3))
    assert [submit.sampling.seed for submit in world.routers[0].submits] == [4, 5, 6]
    assert {submit.sampling.top_k for submit in world.routers[0].submits} == {0}


async def test_several_answers_as_json(world: World) -> None:
    target = await serve(world)
    code, out, err = await command("generate", "hello", "--json", "-n", "2", "--max-tokens", "3", target=target)
    assert (code, err) == (0, "")
    answers = json.loads(out)["answers"]
    assert [len(answer["token_ids"]) for answer in answers] == [3, 3]


async def test_an_echo_comes_before_the_answer(world: World) -> None:
    target = await serve(world)
    ids = await world.clients[0].tokenize("hello")
    flags = ("--echo", "--max-tokens", str(len(ids)))
    assert await command("generate", "hello", *flags, target=target) == (0, "hellohello\n", "")
    _, out, _ = await command("generate", "hello", *flags, "--json", "--truncate-prompt-tokens", "1", target=target)
    answer = json.loads(out)
    assert (answer["prompt_token_ids"], answer["text"]) == (ids[-1:], answer["prompt_text"] * len(ids))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--json-object"], Structured("json_schema", SCHEMA.replace(" ", ""))),
        (["--json-schema", SCHEMA], Structured("json_schema", SCHEMA)),
        (["--json-schema", "FILE:" + SCHEMA], Structured("json_schema", SCHEMA)),
        (["--regex", "a+"], Structured("regex", "a+")),
        (["--grammar", LARK], Structured("grammar", LARK)),
        (["--grammar", "FILE:" + LARK], Structured("grammar", LARK)),
        (["--choice", "yes", "--choice", "no"], Structured("regex", "yes|no")),
    ],
)
async def test_what_an_answer_must_be(world: World, tmp_path: Path, flags: list[str], expected: Structured) -> None:
    target = await serve(world)
    for index, flag in enumerate(flags):
        if flag.startswith("FILE:"):
            (tmp_path / "form").write_text(flag.removeprefix("FILE:"))
            flags = [*flags[:index], str(tmp_path / "form"), *flags[index + 1 :]]
    code, _, err = await command("generate", "hello", "--max-tokens", "1", *flags, target=target)
    assert (code, err) == (0, "")
    assert world.routers[0].submits[0].sampling.structured == expected


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--json-schema", "no-such-file"), "No such file or directory"),
        (("--n", "129"), "INVALID_ARGUMENT: n: must be 1 to 128 answers"),
        (("--n", "-1"), "expertmesh: --n: out of range: -1"),
        (("--top-k", "-2"), "expertmesh: --top-k: out of range: -2"),
        (("--regex", "a", "--json-object"), "not allowed with argument"),
    ],
)
async def test_an_error_is_one_line(world: World, flags: tuple[str, ...], message: str) -> None:
    target = await serve(world)
    code, out, err = await command("generate", "hello", *flags, target=target)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], 'well\n{"name": "look", "arguments": "{1}"}\n'),
        (["--raw"], "<think>h</think>well<call>look:{1}</call>\n"),
        (["--stop", "ll", "--include-stop-text"], "well\n"),
        (["--raw", "--show-special-tokens", "--ignore-eos"], "<think>h</think>well<call>look:{1}</call><|im_end|>\n"),
    ],
)
async def test_a_chat_with_parts(world: World, tokenizer: Tokenizer, flags: list[str], expected: str) -> None:
    world.parsers = TaggedAnswers()
    said = says(ids_of_text(tokenizer, "<think>h</think>well<call>look:{1}</call><|im_end|>"))
    target = await serve(world, script=said)
    assert await command("generate", "--chat", "hi", *flags, target=target) == (0, expected, "")


async def test_the_parts_of_a_chat_as_json(world: World, tokenizer: Tokenizer) -> None:
    world.parsers = TaggedAnswers()
    said = says(ids_of_text(tokenizer, "<think>h</think>well<call>look:{1}</call><|im_end|>"))
    target = await serve(world, script=said)
    _, out, _ = await command("generate", "--chat", "hi", "--json", "--stop", "nothing", target=target)
    answer: dict[str, Any] = json.loads(out)
    assert (answer["text"], answer["reasoning_content"], answer["finish_reason"]) == ("well", "h", "TOOL_CALLS")
    assert [call["function"]["name"] for call in answer["tool_calls"]] == ["look"]
    _, out, _ = await command("generate", "--chat", "hi", "--json", "--stop", "ll", target=target)
    assert json.loads(out)["stop_text"] == "ll"
