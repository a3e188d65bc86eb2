"""Log-probabilities of the prompts that a step computes, for requests with `prompt_logprobs`."""

from collections.abc import Callable, Sequence

from torch import Tensor

from router_service.engine.request import Request
from router_service.engine.sampling.prompt_logprobs import score_rows, unpredicted
from router_service.engine.step.forward import StepTrace
from router_service.models.step_batch import Segment


def score_prompts(
    head: Callable[[Tensor], Tensor],
    requests: Sequence[Request],
    segments: Sequence[Segment],
    trace: StepTrace,
    x_TD: Tensor,
) -> None:
    """Give each request that asks the scores of the prompt tokens that its segment's rows predict.

    A prompt may come in several segments. Rows that are computed again, after a stall or a preemption, are not scored
    again. A request's rows must start where the last ones ended: it may not skip a cached prefix.
    """
    asking = [number for number, request in enumerate(requests) if request.needs_all_logits]
    if not asking:
        return
    for number in set(asking).intersection(trace.complete(segments)):
        _score(head, requests[number], segments[number], x_TD)


def _score(head: Callable[[Tensor], Tensor], request: Request, segment: Segment, x_TD: Tensor) -> None:
    # The row at a position predicts the token at the next one.
    first = segment.context - segment.length + 1
    begin, end = max(first, request.scored), min(segment.context + 1, request.prompt_length)
    assert begin <= max(request.scored, 1), "a prompt that is scored was not computed from its start"
    if not request.scored:
        request.add_scores([unpredicted(request.tokens[0])])
    rows = slice(segment.start + begin - first, segment.start + end - first)
    best = request.params.prompt_logprobs or 0
    request.add_scores(score_rows(head, x_TD[rows], request.tokens[begin:end], best))
