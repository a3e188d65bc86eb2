"""What of an answer's end is text, why it ended, and which special tokens are shown."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from router_service.front.api.answers.answer_text import AnswerText, TextRules
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.messages import StreamOutput, Submit
from router_service.text.tokenizer import Tokenizer
from tests.unit.front.calls import Responses, check_one_end, collect, text_of
from tests.unit.front.front_world import World

EOS = 2


def says(ids: list[int]) -> Callable[[Submit], Iterator[StreamOutput]]:
    """An answer of these tokens, as a router ends it."""

    def script(submit: Submit) -> Iterator[StreamOutput]:
        for at, id in enumerate(ids):
            finish = "stop" if id in submit.sampling.stop_token_ids else "length" if at + 1 == len(ids) else None
            yield StreamOutput(submit.stream, [id], finish=finish)
            if finish:
                return

    return script


def reason_of(responses: Responses) -> str | int | None:
    last = responses[-1]
    assert all(one.WhichOneof("stop_reason") is None for one in responses[:-1])
    return getattr(last, last.WhichOneof("stop_reason") or "", None)


def ids_of_text(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


@pytest.mark.parametrize(
    ("said", "fields", "expected", "reason", "finish"),
    [
        ("hello END. dog", {"stop": ["END."]}, "hello ", "END.", pb.STOP),
        ("hello END. dog", {"stop": ["END.", "dog"], "include_stop_text": True}, "hello END.", "END.", pb.STOP),
        ("hello END. dog", {"stop": ["nothing"], "include_stop_text": True}, "hello END. dog", None, pb.LENGTH),
        # The first to be complete, and of those the longest.
        ("hello END. dog", {"stop": ["ND.", "END."], "include_stop_text": True}, "hello END.", "END.", pb.STOP),
        ("hello<|im_end|> dog", {}, "hello", None, pb.STOP),
        ("hello<|im_end|> dog", {"include_stop_text": True}, "hello", None, pb.STOP),
        ("hello<|im_end|> dog", {"skip_special_tokens": False}, "hello", None, pb.STOP),
        (
            "hello<|im_end|> dog",
            {"skip_special_tokens": False, "include_stop_text": True},
            "hello<|im_end|>",
            None,
            pb.STOP,
        ),
        # A stop token that would have ended the answer anyway is no reason of the request's.
        ("hello<|im_end|> dog", {"stop_token_ids": [EOS]}, "hello", None, pb.STOP),
        ("hello<|im_end|> dog", {"stop_token_ids": [EOS], "ignore_eos": True}, "hello", EOS, pb.STOP),
        ("hello<|im_start|> dog", {"stop": ["<|im_start|>"]}, "hello", "<|im_start|>", pb.STOP),
        (
            "hello<|im_start|> dog",
            {"stop": ["<|im_start|>"], "include_stop_text": True},
            "hello<|im_start|>",
            "<|im_start|>",
            pb.STOP,
        ),
        ("hello<|im_end|> dog", {"ignore_eos": True}, "hello dog", None, pb.LENGTH),
        (
            "hello<|im_end|> dog",
            {"ignore_eos": True, "skip_special_tokens": False},
            "hello<|im_end|> dog",
            None,
            pb.LENGTH,
        ),
        ("hello<|im_start|> dog", {"skip_special_tokens": False}, "hello<|im_start|> dog", None, pb.LENGTH),
        ("hello<|im_start|> dog", {"skip_special_tokens": True}, "hello dog", None, pb.LENGTH),
    ],
)
async def test_the_end_of_an_answer(
    world: World,
    tokenizer: Tokenizer,
    said: str,
    fields: dict[str, Any],
    expected: str,
    reason: str | int | None,
    finish: pb.FinishReason,
) -> None:
    _, client = await world.serve(script=says(ids_of_text(tokenizer, said)))
    responses = await collect(client, "x", max_tokens=50, **fields)
    check_one_end(responses)
    assert (text_of(responses), reason_of(responses), responses[-1].finish_reason) == (expected, reason, finish)


@pytest.mark.parametrize(("include", "expected"), [(False, "hello"), (True, "hello.")])
async def test_a_stop_token_with_text(world: World, tokenizer: Tokenizer, include: bool, expected: str) -> None:
    dot = ids_of_text(tokenizer, ".")
    router, client = await world.serve(script=says(ids_of_text(tokenizer, "hello") + dot))
    responses = await collect(client, "x", stop_token_ids=dot, include_stop_text=include)
    assert text_of(responses) == expected
    assert reason_of(responses) == dot[0]
    assert router.submits[0].sampling.stop_token_ids == (dot[0], EOS)


@pytest.mark.parametrize("special", ["<|im_start|>", "<|endoftext|>"])
def test_shown_special_tokens_are_where_they_came(tokenizer: Tokenizer, special: str) -> None:
    """Also in the midst of a character's tokens, and whatever the tokens are pushed with."""
    said = f"h\u00e9{special} \u4f60 hello{special}{special}"
    ids = ids_of_text(tokenizer, said)
    rules = TextRules(shown=tokenizer.special_ids)
    for step in (1, 2, 3, len(ids)):
        text = AnswerText(tokenizer, rules)
        parts = [text.push(ids[at : at + step], bool)[1].content for at in range(0, len(ids), step)]
        assert "".join(parts) + text.flush(True).content == said
    one = AnswerText(tokenizer, TextRules(shown=frozenset({tokenizer.id_of(special) or 0})))
    assert one.push(ids, bool)[1].content + one.flush(True).content == said
