"""Log-probabilities of a prompt are transformers', in whatever pieces the prompt is computed."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from router_service.engine.request import SCORES_OF_EVENT, Event, Request
from router_service.engine.sampling.prompt_logprobs import ROWS_AT_ONCE, score_rows
from router_service.engine.step.forward import StepTrace
from router_service.engine.step.prompt_scores import score_prompts
from router_service.models.step_batch import Segment
from router_service.protocol.messages import SamplingParams, TokenLogprobs
from tests.support import oracle
from tests.support.mesh import Mesh, greedy, tokens_of
from tests.support.tiny import Tiny

PROMPTS = [prompt for prompt in oracle.prompts()[::3] if len(prompt) > 1] + [[7]]


def scores_of(events: Sequence[Event]) -> list[TokenLogprobs]:
    return [entry for event in events for entry in event.prompt_logprobs or []]


@pytest.mark.parametrize("family", ["mixtral", "deepseek_v3"])
def test_prompt_logprobs_are_transformers(tiny: Callable[..., Tiny], family: str) -> None:
    """lm-eval's way of asking: the prompt's tokens, one best token, and one token more."""
    made = tiny(family)
    with Mesh(made.plan, 2) as mesh:
        plain = mesh.generate(PROMPTS, greedy(1))
        outputs = mesh.generate(PROMPTS, greedy(1, prompt_logprobs=3))
    for prompt, events, alone in zip(PROMPTS, outputs, plain, strict=True):
        assert tokens_of(events) == tokens_of(alone)
        entries = scores_of(events)
        assert [entry.chosen.token_id for entry in entries] == prompt
        assert (entries[0].chosen.logprob, entries[0].top) == (0.0, [])
        check(entries[1:], oracle.forced(made.oracle, torch.tensor([prompt]))[0][0, :-1].log_softmax(-1))


def check(entries: Sequence[TokenLogprobs], want_TV: Tensor) -> None:
    chosen = [entry.chosen for entry in entries]
    theirs = [float(row[one.token_id]) for row, one in zip(want_TV, chosen, strict=True)]
    assert sum(one.logprob for one in chosen) == pytest.approx(sum(theirs), abs=1e-4)
    assert [one.logprob for one in chosen] == pytest.approx(theirs, abs=1e-4)
    for entry, row in zip(entries, want_TV, strict=True):
        best = row.topk(3)
        assert [one.token_id for one in entry.top] == best.indices.tolist()
        assert [one.logprob for one in entry.top] == pytest.approx(best.values.tolist(), abs=1e-4)


def test_neighbours_that_do_not_ask_get_none(tiny: Callable[..., Tiny]) -> None:
    with Mesh(tiny("mixtral").plan, 2) as mesh:
        asks = mesh.submit([5, 6, 7], greedy(2, prompt_logprobs=0))
        other = mesh.submit([5, 6, 7], greedy(2))
        events = mesh.drain()
    assert tokens_of(events[asks]) == tokens_of(events[other])
    assert scores_of(events[other]) == []
    assert [entry.top for entry in scores_of(events[asks])] == [[], [], []]
    first, *rest = events[asks]
    assert (first.token, first.timings, first.finish) == (None, None, None)
    assert all(event.prompt_logprobs is None for event in rest)
    assert rest[0].timings is not None


def test_a_resumed_stream_scores_the_prompt_and_not_what_was_generated(tiny: Callable[..., Tiny]) -> None:
    prompt = [5, 6, 7, 8]
    with Mesh(tiny("mixtral").plan, 2) as mesh:
        (whole,) = mesh.generate([prompt], greedy(4, prompt_logprobs=1))
        done = tokens_of(whole)[:2]
        (rest,) = mesh.generate([[*prompt, *done]], greedy(4, prompt_logprobs=1), prompt_length=4)
    assert tokens_of(rest) == tokens_of(whole)[2:]
    assert [entry.chosen.token_id for entry in scores_of(rest)] == prompt
    got, want = ([entry.chosen.logprob for entry in scores_of(events)] for events in (rest, whole))
    assert got == pytest.approx(want, abs=1e-5)


def request_of(prompt: list[int], **params: Any) -> Request:
    return Request(
        key=1, front=2, stream=3, request_id="r", params=SamplingParams(max_tokens=9, **params), tokens=[*prompt],
        prompt_length=len(prompt), return_routing=False, arrived=0.0,
    )  # fmt: skip


def segments_of(*ends: int, start: int = 0) -> list[Segment]:
    """Segments of one sequence that end at these contexts; before each lie `start` rows of others."""
    begins = [0, *ends[:-1]]
    return [Segment(start, end - begin, end) for begin, end in zip(begins, ends, strict=True)]


def head(x_RD: Tensor) -> Tensor:
    return x_RD * torch.linspace(0.5, 2.0, x_RD.shape[1])


def score(request: Request, segment: Segment, hidden_TD: Tensor, lost: bool = False) -> list[TokenLogprobs]:
    """A step with the rows of `segment` of the sequence's `hidden_TD`, behind rows of others."""
    rows = hidden_TD[segment.context - segment.length : segment.context]
    x_TD = torch.cat((torch.full((segment.start, rows.shape[1]), 9.0), rows))
    trace = StepTrace()
    trace.lost_T = torch.zeros(len(x_TD), dtype=torch.bool).numpy()
    trace.lost_T[-1:] = lost
    score_prompts(head, [request], [segment], trace, x_TD)
    return scores_of(request.prompt_events())


@pytest.mark.parametrize("ends", [(7,), (1, 7), (3, 4, 7), (7, 8, 9), (6, 8)], ids=str)
def test_a_prompt_in_pieces_has_the_scores_of_one_in_whole(ends: tuple[int, ...]) -> None:
    """The last row of each piece predicts the first token of the next one; tokens behind the prompt are not scored."""
    prompt, hidden_TD = [3, 1, 4, 1, 5, 2, 0], torch.randn((9, 8), generator=torch.Generator().manual_seed(1))
    request = request_of(prompt, prompt_logprobs=2)
    got = [entry for part in segments_of(*ends, start=2) for entry in score(request, part, hidden_TD)]
    assert [entry.chosen.token_id for entry in got] == prompt
    logprobs_TV = head(hidden_TD).log_softmax(-1)
    want = [float(logprobs_TV[place, token]) for place, token in enumerate(prompt[1:])]
    assert [entry.chosen.logprob for entry in got] == pytest.approx([0.0, *want], abs=1e-6)
    assert not request.needs_all_logits


def test_rows_that_are_computed_again_are_not_scored_again() -> None:
    """After a loss the same rows come again; after a preemption all of them."""
    prompt, hidden_TD = [3, 1, 4, 1, 5], torch.randn((5, 8), generator=torch.Generator().manual_seed(2))
    request, (first, second) = request_of(prompt, prompt_logprobs=0), segments_of(3, 5)
    assert score(request, first, hidden_TD, lost=True) == []
    assert request.needs_all_logits
    assert len(score(request, first, hidden_TD)) == 4
    again = [entry for part in (first, second) for entry in score(request, part, hidden_TD)]
    assert [entry.chosen.token_id for entry in again] == [5]
    assert score(request, segments_of(5)[0], hidden_TD) == []


def test_a_skipped_start_is_a_fault() -> None:
    """A cached prefix has no logits: whoever schedules must not skip it."""
    request = request_of([3, 1, 4, 1, 5], prompt_logprobs=0)
    with pytest.raises(AssertionError, match="not computed from its start"):
        score(request, Segment(0, 3, 5), torch.zeros(5, 8))


def test_the_head_never_sees_more_than_a_block_of_rows() -> None:
    seen = SimpleNamespace(rows=[])

    def watched(x_RD: Tensor) -> Tensor:
        seen.rows.append(len(x_RD))
        return head(x_RD)

    hidden_TD = torch.randn((600, 8), generator=torch.Generator().manual_seed(3))
    tokens = [number % 8 for number in range(600)]
    got = score_rows(watched, hidden_TD, tokens, 1)
    assert seen.rows == [ROWS_AT_ONCE, ROWS_AT_ONCE, 600 - 2 * ROWS_AT_ONCE]
    want = head(hidden_TD).log_softmax(-1).gather(1, torch.tensor(tokens)[:, None]).squeeze(1)
    assert [entry.chosen.logprob for entry in got] == pytest.approx(want.tolist(), abs=1e-6)


def test_many_scores_come_in_several_events() -> None:
    request = request_of([1] * 1200, prompt_logprobs=0)
    request.add_scores(score_rows(head, torch.zeros(1200, 8), [1] * 1200, 0))
    events = request.prompt_events()
    assert [len(event.prompt_logprobs or []) for event in events] == [SCORES_OF_EVENT] * 4 + [176]
    assert request.prompt_events() == []
