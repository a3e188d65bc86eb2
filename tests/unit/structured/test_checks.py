"""A Front finds out in bounded time and memory whether answers can have a form, and goes on meanwhile."""

import asyncio
import os
import signal

import pytest

import router_service.structured.check_process
from router_service.protocol.messages import Structured
from router_service.structured import checks
from router_service.structured.check_process import CheckProcess
from router_service.structured.checks import BusyError, StructuredChecks
from router_service.structured.grammar import GrammarError
from router_service.structured.vocabulary import token_bytes
from tests.e2e.server import gone
from tests.support.structured import ENDS, bundled_tokenizer, schema

SIZE = 3072
GOOD = Structured("regex", "[a-z]+")


@pytest.fixture
def process() -> CheckProcess:
    tokens = [data.hex() for data in token_bytes(bundled_tokenizer(), SIZE)]
    return CheckProcess({"tokens": tokens, "special": [0, 1, 2], "ends": list(ENDS)})


def test_it_says_why_not(process: CheckProcess) -> None:
    assert process.check(GOOD) == ""
    assert "unclosed" in process.check(Structured("regex", "(["))
    assert "uniqueItems" in process.check(schema({"type": "array", "uniqueItems": True}))
    assert process.check(GOOD) == ""


def test_what_is_too_complex_once_an_answer_has_begun_is_refused(process: CheckProcess) -> None:
    def optional(count: int) -> Structured:
        return schema({"type": "object", "properties": {f"p{number}": {} for number in range(count)}})

    assert process.check(optional(500)) == ""
    assert "is too complex" in process.check(optional(1500))


def test_one_that_takes_too_much_time_ends_its_process(process: CheckProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    assert process.check(GOOD) == ""
    first = process.pid
    assert first is not None
    os.kill(first, signal.SIGSTOP)  # it answers nothing any more
    monkeypatch.setattr(router_service.structured.check_process, "CHECK_SECONDS", 0.05)
    assert "to compile" in process.check(GOOD)
    assert not gone({first})
    monkeypatch.undo()
    assert process.check(GOOD) == ""


@pytest.mark.parametrize(("signum", "said"), [(signal.SIGXCPU, "processor time"), (signal.SIGABRT, "memory")])
def test_one_that_meets_a_limit_is_refused(process: CheckProcess, signum: signal.Signals, said: str) -> None:
    assert process.check(GOOD) == ""
    assert process.pid is not None
    os.kill(process.pid, signum)
    assert said in process.check(GOOD)
    assert process.check(GOOD) == ""


async def test_a_form_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Structured] = []
    check = CheckProcess.check

    def counted(process: CheckProcess, structured: Structured) -> str:
        asked.append(structured)
        return check(process, structured)

    monkeypatch.setattr(CheckProcess, "check", counted)
    mine, bad = StructuredChecks(bundled_tokenizer(), SIZE, ENDS), Structured("regex", "([")
    for _ in range(3):
        await mine.check(GOOD)
        with pytest.raises(GrammarError, match="unclosed"):
            await mine.check(bad)
    assert asked == [GOOD, bad]


async def test_what_is_out_of_bounds_is_not_even_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CheckProcess, "check", None)
    with pytest.raises(GrammarError, match="nested deeper"):
        await StructuredChecks(bundled_tokenizer(), SIZE, ENDS).check(Structured("json_schema", "[" * 1000))


async def test_others_go_on_while_one_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """And whoever is not its turn in time is told so, as are those behind it."""
    mine = StructuredChecks(bundled_tokenizer(), SIZE, ENDS)
    await mine.check(GOOD)
    held = asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(*_: object) -> str:
        asyncio.run_coroutine_threadsafe(held.wait(), loop).result(60)
        return ""

    monkeypatch.setattr(CheckProcess, "check", slow)
    monkeypatch.setattr(checks, "WAIT_SECONDS", 0.05)
    waiting = [mine.check(Structured("regex", f"a{number}")) for number in range(checks.PROCESSES + 1)]
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {BusyError}
    held.set()
