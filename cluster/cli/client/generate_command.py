"""`expertmesh generate`: send a prompt to a running server and stream the answer."""

import argparse
import json
import math
from collections.abc import Iterable
from contextlib import aclosing

from cluster.cli.client.client_command import add_target, client_of, run_client
from cluster.cli.client.sampling_flags import LOGPROBS, add_counts, add_sampling, sampling_of, scheduling_of
from router_service.protocol import inference_pb2 as pb

Subparsers = argparse._SubParsersAction  # argparse has no public name for what add_subparsers returns


def add_parser(subparsers: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = subparsers.add_parser("generate", aliases=["complete"], help="stream an answer from a running server")
    parser.add_argument("prompt", metavar="PROMPT")
    add_target(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--chat", action="store_true", help="send PROMPT as a user's message through the chat template")
    add_sampling(parser)
    add_counts(parser, LOGPROBS)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    return run_client(_generate(args), args.target)


async def _generate(args: argparse.Namespace) -> None:
    kind = {"messages": [{"role": "user", "content": args.prompt}]} if args.chat else {"prompt": args.prompt}
    responses: list[pb.GenerateResponse] = []
    async with client_of(args) as client:
        stream = client.generate(**kind, **scheduling_of(args), timeout=args.timeout, **sampling_of(args))
        async with aclosing(stream):  # an interrupt cancels the call, so that the server stops generating
            async for response in stream:
                responses.append(response)
                if not args.json:
                    print(response.text, end="", flush=True)
    print(json.dumps(summary(responses), ensure_ascii=False) if args.json else "")  # else: end the streamed line


def summary(responses: Iterable[pb.GenerateResponse]) -> dict[str, object]:
    """Return a whole answer as JSON's types."""
    responses = list(responses)
    last = responses[-1] if responses else pb.GenerateResponse()
    usage = {field.name: getattr(last.usage, field.name) for field in pb.Usage.DESCRIPTOR.fields}
    answer: dict[str, object] = {
        "request_id": last.request_id,
        "token_ids": [id for response in responses for id in response.token_ids],
        "text": "".join(response.text for response in responses),
        "finish_reason": pb.FinishReason.Name(last.finish_reason),
        "usage": usage,
    }
    if marks := degraded_indexes(responses):
        answer["degraded_token_indexes"] = marks
    if entries := [entry for response in responses for entry in response.logprobs]:
        answer["logprobs"] = [_logprob(entry) for entry in entries]
    if entries := [entry for response in responses for entry in response.prompt_logprobs]:
        # Nothing predicts the first token of a prompt.
        answer["prompt_logprobs"] = [_logprob(entries[0]) | {"logprob": None}, *map(_logprob, entries[1:])]
    return answer


def degraded_indexes(responses: Iterable[pb.GenerateResponse]) -> list[int]:
    """Which of a whole answer's tokens are degraded."""
    marks, before = list[int](), 0
    for response in responses:
        marks += [before + index for index in response.degraded_token_indexes]
        before += len(response.token_ids)
    return marks


def _logprob(entry: pb.TokenLogprob) -> dict[str, object]:
    # JSON has no minus infinity.
    value = entry.logprob if math.isfinite(entry.logprob) else None
    plain: dict[str, object] = {"token_id": entry.token_id, "text": entry.text, "logprob": value}
    return plain | {"top": [_logprob(candidate) for candidate in entry.top]} if entry.top else plain
