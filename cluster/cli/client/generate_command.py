"""`expertmesh generate`: send a prompt to a running server and stream the answer."""

import argparse
import json
import math
from collections.abc import Iterable
from contextlib import aclosing
from typing import cast

from cluster.cli.client.client_command import add_target, client_of, run_client
from router_service.client.client import SamplingFields
from router_service.protocol import inference_pb2 as pb

Subparsers = argparse._SubParsersAction  # argparse has no public name for what add_subparsers returns

COUNTS = ("max_tokens", "min_tokens", "top_k", "seed", "logprobs", "prompt_logprobs")
SHARES = ("temperature", "top_p", "min_p")


def add_parser(subparsers: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = subparsers.add_parser("generate", help="stream an answer from a running server")
    parser.add_argument("prompt", metavar="PROMPT")
    add_target(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--chat", action="store_true", help="send PROMPT as a user's message through the chat template")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="deadline of the call")
    for name in COUNTS:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N")
    for name in SHARES:
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, metavar="X")
    parser.add_argument("--stop", action="append", metavar="TEXT", help="end the answer at TEXT (repeatable)")
    parser.add_argument(
        "--priority", type=int, default=0, metavar="N", help="lower runs first, -100 to 100 (default: %(default)s)"
    )
    parser.add_argument(
        "--cache-salt", default="", metavar="TEXT", help="share cached prefixes only with requests of the same salt"
    )
    parser.add_argument(
        "--fallback",
        choices=("wait", "drop", "next_best", "fail"),
        default="",
        help="what to do where an expert has no living copy (default: the server's)",
    )
    parser.add_argument(
        "--logit-bias",
        action="append",
        type=_bias,
        metavar="ID=BIAS",
        help="add BIAS, -100 to 100, to the logit of the token ID (repeatable)",
    )
    parser.add_argument("--ignore-eos", action="store_true", help="go on behind end-of-sequence tokens")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    return run_client(_generate(args), args.target)


async def _generate(args: argparse.Namespace) -> None:
    kind = {"messages": [{"role": "user", "content": args.prompt}]} if args.chat else {"prompt": args.prompt}
    responses: list[pb.GenerateResponse] = []
    async with client_of(args) as client:
        sampling = sampling_of(args)
        own = {"priority": args.priority, "cache_salt": args.cache_salt, "fallback": args.fallback}
        stream = client.generate(**kind, **own, timeout=args.timeout, **sampling)
        async with aclosing(stream):  # an interrupt cancels the call, so that the server stops generating
            async for response in stream:
                responses.append(response)
                if not args.json:
                    print(response.text, end="", flush=True)
    print(json.dumps(summary(responses), ensure_ascii=False) if args.json else "")  # else: end the streamed line


def sampling_of(args: argparse.Namespace) -> SamplingFields:
    """Return the sampling fields that were given on the command line; the server checks their bounds.

    Raises:
        ValueError: one cannot even be sent.
    """
    if not -(1 << 31) <= args.priority < 1 << 31:
        raise ValueError(f"--priority: out of range: {args.priority}")
    for name in COUNTS:
        if not 0 <= (getattr(args, name) or 0) < 1 << (64 if name == "seed" else 32):
            raise ValueError(f"--{name.replace('_', '-')}: out of range: {getattr(args, name)}")
    names = (*COUNTS, *SHARES, "stop")
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    if args.logit_bias:
        given["logit_bias"] = dict(args.logit_bias)
    return cast(SamplingFields, {**given, "ignore_eos": args.ignore_eos})


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


def _bias(text: str) -> tuple[int, float]:
    """Parse ID=BIAS."""
    id, _, bias = text.partition("=")
    try:
        parsed = int(id), float(bias)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be ID=BIAS such as 42=-1.5, not {text!r}") from None
    if not 0 <= parsed[0] < 1 << 32:
        raise argparse.ArgumentTypeError(f"a token's ID is at least 0 and below 2^32, not {id}")
    return parsed


def _logprob(entry: pb.TokenLogprob) -> dict[str, object]:
    # JSON has no minus infinity.
    value = entry.logprob if math.isfinite(entry.logprob) else None
    plain: dict[str, object] = {"token_id": entry.token_id, "text": entry.text, "logprob": value}
    return plain | {"top": [_logprob(candidate) for candidate in entry.top]} if entry.top else plain
