"""What is asked: lengths, shared beginnings, files."""

import json
from itertools import islice
from pathlib import Path

import pytest

from cluster.bench.prompt_file import read_prompts
from cluster.bench.workload import Lengths, Question, Synthetic, parse_lengths
from router_service.protocol import inference_pb2 as pb

MODEL = pb.ModelInfo(vocabulary=300, context=100, prompt_limit=80, eos_token_ids=[0, 7])
TEN = Lengths(10, 10)


def asked(count: int, **options: object) -> list[Question]:
    synthetic = Synthetic(**{"input": TEN, "output": TEN} | options)  # type: ignore[arg-type]
    return list(islice(synthetic.questions(MODEL), count))


def test_lengths_are_a_number_or_a_range() -> None:
    assert parse_lengths("512") == Lengths(512, 512)
    assert parse_lengths("128:1024") == Lengths(128, 1024)
    for wrong in ("", "0", "-1", "a", "5:", ":5", "9:5", "0:5", "1:2:3", "1.5"):
        with pytest.raises(ValueError, match=r"^must be .*, got '"):
            parse_lengths(wrong)


def test_prompts_are_of_their_lengths_and_end_no_answer() -> None:
    found = asked(300, input=Lengths(3, 5), output=Lengths(1, 2))
    assert {len(q.tokens or ()) for q in found} == {3, 4, 5}
    assert {q.output_tokens for q in found} == {1, 2}
    ids = {id for q in found for id in q.tokens or ()}
    assert ids.isdisjoint({0, 7})
    assert max(ids) < 300


def test_a_seed_asks_the_same_and_another_one_does_not() -> None:
    assert asked(5) == asked(5)
    assert asked(5) != asked(5, seed=1)


def test_prompts_of_a_group_share_their_beginning_and_nothing_else() -> None:
    found = [list(q.tokens or ()) for q in asked(6, shared=8, groups=2)]
    assert {len(tokens) for tokens in found} == {18}
    assert found[0][:8] == found[2][:8] == found[4][:8] != found[1][:8] == found[3][:8]
    assert found[0][8:] != found[2][8:]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input": Lengths(1, 81)}, "--input-tokens: 81 tokens .* limit of 80"),
        ({"shared": 71}, "--input-tokens: 81 tokens with the shared beginning"),
        ({"output": Lengths(1, 91)}, "--output-tokens: 10 tokens of prompt and 91 of answer .* context of 100"),
    ],
)
def test_what_does_not_fit_is_said_before_it_is_sent(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Synthetic(**{"input": TEN, "output": TEN} | options).check(MODEL)  # type: ignore[arg-type]
    Synthetic(TEN, TEN, 60).check(MODEL)


def write(path: Path, *lines: object) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_a_file_has_a_prompt_a_line(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "hi"}]
    lines = ({"prompt": "a"}, "", {"messages": chat, "max_tokens": 3}, {"tokens": [4, 5], "output_tokens": 2, "id": 1})
    assert read_prompts(write(tmp_path / "f", *lines), TEN, 0) == [
        Question(10, prompt="a"),
        Question(3, messages=chat),
        Question(2, tokens=[4, 5]),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", ":1: no JSON: "),
        ([1], ':1: must be an object with one of "prompt"'),
        ({}, ":1: must be an object"),
        ({"prompt": "a", "tokens": [1]}, ":1: must be an object with one of"),
        ({"prompt": ""}, ":1: prompt is not valid"),
        ({"prompt": 5}, ":1: prompt is not valid"),
        ({"tokens": [-1]}, ":1: tokens is not valid"),
        ({"tokens": [True]}, ":1: tokens is not valid"),
        ({"messages": [{"role": "user"}]}, ":1: messages is not valid"),
        ({"prompt": "a", "output_tokens": 0}, ":1: output_tokens must be a number from 1 on, got 0"),
        ({"prompt": "a", "max_tokens": "9"}, ":1: output_tokens must be a number from 1 on, got '9'"),
        ("", " has no prompts"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: object, message: str) -> None:
    with pytest.raises(ValueError, match=r"^--prompts: ") as caught:
        read_prompts(write(tmp_path / "f", line), TEN, 0)
    assert f"{tmp_path}/f{message}" in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=f"^--prompts: cannot read {tmp_path}/none: No such file"):
        read_prompts(tmp_path / "none", TEN, 0)
    (tmp_path / "f").write_bytes(b"\xff\n")
    with pytest.raises(ValueError, match="is not UTF-8"):
        read_prompts(tmp_path / "f", TEN, 0)
