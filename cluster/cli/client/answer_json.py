"""A whole answer as JSON's types, for `--json`."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from cluster.cli.client.chat.answer import Answer
from router_service.protocol import inference_pb2 as pb


def summary(responses: Iterable[pb.GenerateResponse]) -> dict[str, Any]:
    """Return all of a call: its answer, or `answers` where there are several."""
    responses = list(responses)
    answers = by_index(responses)
    if len(answers) < 2:
        return answer_of(responses)
    return {"request_id": responses[-1].request_id, "answers": [answer_of(answer) for answer in answers]}


def by_index(responses: Iterable[pb.GenerateResponse]) -> list[list[pb.GenerateResponse]]:
    """Return the responses of each answer."""
    answers: dict[int, list[pb.GenerateResponse]] = {}
    for response in responses:
        answers.setdefault(response.index, []).append(response)
    return [answers[index] for index in sorted(answers)]


def answer_of(responses: Sequence[pb.GenerateResponse]) -> dict[str, Any]:
    """Return one answer."""
    last = responses[-1] if responses else pb.GenerateResponse()
    usage = {field.name: getattr(last.usage, field.name) for field in pb.Usage.DESCRIPTOR.fields}
    answer: dict[str, Any] = {
        "request_id": last.request_id,
        "token_ids": [id for response in responses for id in response.token_ids],
        "text": "".join(response.text for response in responses),
        "finish_reason": pb.FinishReason.Name(last.finish_reason),
        "usage": usage,
    }
    if reason := last.WhichOneof("stop_reason"):
        answer[reason] = getattr(last, reason)
    return answer | _parts(responses) | _prompt(responses) | _marks(responses)


def _parts(responses: Iterable[pb.GenerateResponse]) -> dict[str, Any]:
    """What was taken out of a chat's text."""
    answer = Answer()
    for response in responses:
        answer.add(response)
    message = answer.message() or {}
    return {key: message[key] for key in ("reasoning_content", "tool_calls") if key in message}


def _prompt(responses: Sequence[pb.GenerateResponse]) -> dict[str, Any]:
    ids = [id for response in responses for id in response.prompt_token_ids]
    text = "".join(response.prompt_text for response in responses)
    return {"prompt_text": text, "prompt_token_ids": ids} if ids else {}


def _marks(responses: Sequence[pb.GenerateResponse]) -> dict[str, Any]:
    marks: dict[str, Any] = {}
    if degraded := degraded_indexes(responses):
        marks["degraded_token_indexes"] = degraded
    if entries := [entry for response in responses for entry in response.logprobs]:
        marks["logprobs"] = [_logprob(entry) for entry in entries]
    if entries := [entry for response in responses for entry in response.prompt_logprobs]:
        # Nothing predicts the first token of a prompt.
        marks["prompt_logprobs"] = [_logprob(entries[0]) | {"logprob": None}, *map(_logprob, entries[1:])]
    return marks


def degraded_indexes(responses: Iterable[pb.GenerateResponse]) -> list[int]:
    """Which of a whole answer's tokens are degraded."""
    marks, before = list[int](), 0
    for response in responses:
        marks += [before + index for index in response.degraded_token_indexes]
        before += len(response.token_ids)
    return marks


def _logprob(entry: pb.TokenLogprob) -> dict[str, Any]:
    # JSON has no minus infinity.
    value = entry.logprob if math.isfinite(entry.logprob) else None
    plain: dict[str, Any] = {"token_id": entry.token_id, "text": entry.text, "logprob": value}
    return plain | {"top": [_logprob(candidate) for candidate in entry.top]} if entry.top else plain
