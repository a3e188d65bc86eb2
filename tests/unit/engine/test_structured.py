"""Structured answers keep their form and their tokens, whatever happens to a request meanwhile."""

import json
import math
import re
import threading
from collections.abc import Iterator

import pytest

import router_service.engine.builder
from experts.checkpoint.errors import CheckpointError
from router_service.engine.request import Event
from router_service.engine.scheduling.sequence import Sequence
from router_service.protocol.messages import Structured
from tests.support.mesh import WAIT_S, until
from tests.support.structured import ENDS, Answers, bundled_mesh, bundled_tokenizer, schema

PERSON = schema(
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "tags": {"type": "array", "items": {"enum": ["a", "b", "c d"]}, "maxItems": 3},
        },
        "required": ["name", "age", "tags"],
        "additionalProperties": False,
    }
)
WORD = Structured("regex", "[a-z]{3,8}(-[0-9]{2}){0,4}")
ANSWER = Structured("regex", "yes|no")


@pytest.fixture(scope="module")
def answers() -> Iterator[Answers]:
    with bundled_mesh() as mesh:
        yield Answers(mesh)


def ids_of(answers: Answers, structured: Structured | None, **params: object) -> list[int]:
    return [event.token for event in answers.ask(structured, **params) if event.token is not None]


@pytest.mark.parametrize(
    "params",
    [{}, {"temperature": 0.0}, {"top_k": 5}, {"top_p": 0.5, "min_p": 0.01}, {"repetition_penalty": 1.5}],
    ids=str,
)
def test_an_answer_has_its_form_however_it_is_drawn(answers: Answers, params: dict[str, float]) -> None:
    events = answers.ask(PERSON, **params)
    assert set(json.loads(answers.text(events))) == {"name", "age", "tags"}
    assert (events[-1].finish, events[-1].token in ENDS) == ("stop", True)
    assert re.fullmatch(WORD.text, answers.text(answers.ask(WORD, **params)))


def test_what_shares_the_batch_changes_nothing(answers: Answers) -> None:
    asked = [PERSON, None, WORD, schema({"type": "array", "items": {"type": "integer"}, "maxItems": 5}), None, PERSON]
    alone = [ids_of(answers, structured, seed=number, max_tokens=60) for number, structured in enumerate(asked)]
    keys = [answers.submit(structured, seed=number, max_tokens=60) for number, structured in enumerate(asked)]
    events = answers.mesh.drain()
    assert [[event.token for event in events[key]] for key in keys] == alone


@pytest.mark.parametrize("so_far", [1, 7, 20])
def test_it_goes_on_at_another_router(answers: Answers, so_far: int) -> None:
    whole = ids_of(answers, PERSON)
    with bundled_mesh() as other:
        assert whole[:so_far] + ids_of(Answers(other), PERSON, generated=whole[:so_far]) == whole


def test_tokens_that_the_form_does_not_allow_are_no_beginning(answers: Answers) -> None:
    failure = answers.ask(PERSON, generated=[300, 300])[-1].failure
    assert failure is not None
    assert failure.code == "INVALID_ARGUMENT"
    assert "does not allow the tokens that the answer has already" in failure.message


def test_chunks_and_preemption_change_nothing(answers: Answers) -> None:
    plain = [ids_of(answers, PERSON, seed=seed, max_tokens=120) for seed in range(4)]
    with bundled_mesh(kv_cache_tokens=144, token_budget=10, max_sequences=4, block_size=4) as small:
        tight = Answers(small)
        keys = [tight.submit(PERSON, seed=seed, max_tokens=120) for seed in range(4)]
        events = small.drain()
        assert small.engine.scheduler.preemptions > 0
    assert [[event.token for event in events[key] if event.token is not None] for key in keys] == plain


def test_two_batches_in_flight_change_nothing(answers: Answers) -> None:
    asked = [PERSON, WORD, None, PERSON, ANSWER, WORD, None, PERSON, WORD, PERSON]
    plain = answers.ask_all(asked, max_tokens=40)
    with bundled_mesh(overlap="on") as mesh:
        divided = Answers(mesh).ask_all(asked, max_tokens=40)
    tokens = [[[event.token for event in one] for one in events] for events in (plain, divided)]
    assert tokens[0] == tokens[1]


def test_without_an_end_token_it_ends_by_itself(answers: Answers) -> None:
    """Only where nothing else may come: what may go on goes on."""
    events = answers.ask(ANSWER, ignore_eos=True)
    assert answers.text(events) in ("yes", "no")
    assert events[-1].finish == "stop"
    assert not {event.token for event in events} & set(ENDS)
    longer = answers.ask(Structured("regex", "[a-z]+"), ignore_eos=True, max_tokens=30)
    assert (longer[-1].finish, len(longer)) == ("length", 30)


def test_the_form_goes_before_min_tokens_and_bias(answers: Answers) -> None:
    assert answers.text(answers.ask(ANSWER, min_tokens=100)) in ("yes", "no")
    tokenizer = bundled_tokenizer()
    against = {id: -100.0 for id in range(300) if tokenizer.text_of(id).startswith(("y", "n"))}
    assert answers.text(answers.ask(ANSWER, logit_bias=against)) in ("yes", "no")
    # Where it allows more, `min_tokens` holds.
    events = answers.ask(Structured("regex", "[a-z ]*"), min_tokens=40, max_tokens=100)
    assert len(events) > 40


def test_log_probabilities_are_the_models_own(answers: Answers) -> None:
    events = answers.ask(ANSWER, logprobs=1, temperature=0.0)
    drawn = events[0].token
    free = answers.ask(None, temperature=0.0, logprobs=20, max_tokens=1, logit_bias={drawn: 100.0})
    own, same = events[0].logprobs, free[0].logprobs
    assert own is not None
    assert same is not None
    assert (same.chosen.token_id, own.top[0].token_id) == (drawn, same.top[0].token_id)
    assert math.isclose(own.chosen.logprob, same.chosen.logprob, abs_tol=1e-5)


def test_a_form_that_does_not_compile_fails_alone(answers: Answers) -> None:
    bad, good = answers.submit(Structured("regex", "([")), answers.submit(ANSWER)
    events = answers.mesh.drain()
    failure = events[bad][-1].failure
    assert failure is not None
    assert failure.code == "INVALID_ARGUMENT"
    assert "sampling.structured: " in failure.message
    assert answers.text(events[good]) in ("yes", "no")


def test_a_form_that_cannot_go_on_fails_alone(answers: Answers) -> None:
    broken, other = answers.submit(PERSON), answers.submit(PERSON, seed=2)
    events: dict[int, list[Event]] = {}

    def begun() -> bool:
        for event in answers.mesh.engine.step():
            events.setdefault(event.key, []).append(event)
        return broken in events

    until(begun, "its first token")  # the other one may be compiled before it
    matcher = answers.request(broken).row.matcher
    assert matcher is not None
    matcher.error = "it has become too complex"
    for key, more in answers.mesh.drain().items():
        events.setdefault(key, []).extend(more)
    failure = events[broken][-1].failure
    assert failure is not None
    assert (failure.code, "too complex" in failure.message) == ("INVALID_ARGUMENT", True)
    assert events[other][-1].finish == "stop"


def test_one_that_cannot_be_queued_fails_alone(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = answers.mesh.engine.scheduler
    submit = scheduler.submit

    def picky(sequence: Sequence) -> None:
        if sequence.priority:
            raise LookupError("out of luck")
        submit(sequence)

    monkeypatch.setattr(scheduler, "submit", picky)
    good = answers.submit(ANSWER)
    bad = answers.mesh.submit(answers.prompt, answers.request(good).params, priority=1)
    events = answers.mesh.drain()
    assert [event.failure.code for event in events[bad] if event.failure] == ["INTERNAL"]
    assert answers.text(events[good]) in ("yes", "no")


def test_a_router_without_a_tokenizer_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(_: object) -> None:
        raise CheckpointError("tokenizer.json: no such file")

    monkeypatch.setattr(router_service.engine.builder, "load_tokenizer", unreadable)
    with bundled_mesh() as mesh:
        answers = Answers(mesh)
        failure = answers.ask(ANSWER)[-1].failure
        assert failure is not None
        assert failure.code == "FAILED_PRECONDITION"
        assert "cannot read the model's tokenizer: tokenizer.json: no such file" in failure.message
        assert len(answers.ask(None, max_tokens=3, ignore_eos=True)) == 3


def test_who_compiles_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does one that is cancelled, or whose deadline passes, come back when it is compiled."""
    go_on = threading.Event()

    def slow(_: object) -> object:
        assert go_on.wait(WAIT_S)
        return bundled_tokenizer()

    monkeypatch.setattr(router_service.engine.builder, "load_tokenizer", slow)
    with bundled_mesh() as mesh:
        answers, engine = Answers(mesh), mesh.engine
        compiling, cancelled, late = (answers.submit(ANSWER) for _ in range(3))
        plain = answers.submit(None, max_tokens=5, ignore_eos=True)
        engine.cancel(cancelled)
        engine.requests[late].deadline = engine.clock()
        events = [event for _ in range(8) for event in engine.step()]
        assert [event.finish for event in events if event.key == plain] == [None] * 4 + ["length"]
        assert [event.failure.code for event in events if event.failure] == ["DEADLINE_EXCEEDED"]
        assert not engine.idle()
        engine.requests.forget(plain)
        go_on.set()
        assert list(mesh.drain()) == [compiling]
        until(lambda: engine.step() == [] and engine.idle(), "the others are compiled, and dropped")
