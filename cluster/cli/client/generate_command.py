"""`expertmesh generate`: send a prompt to a running server and stream the answer."""

import argparse
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from cluster.cli.client.answer_json import answer_of, by_index, summary
from cluster.cli.client.client_command import add_target, client_of, run_client
from cluster.cli.client.form_flags import add_form, form_of
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
    add_form(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    return run_client(_generate(args), args.target)


async def _generate(args: argparse.Namespace) -> None:
    kind = {"messages": [{"role": "user", "content": args.prompt}]} if args.chat else {"prompt": args.prompt}
    fields = {**scheduling_of(args), **sampling_of(args), **form_of(args)}
    # Several come in turns, which nobody can read.
    streams = not args.json and (args.n or 1) == 1
    async with client_of(args) as client:
        responses = await _read(client.generate(**kind, **fields, timeout=args.timeout), streams)  # type: ignore[arg-type]
    if args.json:
        print(json.dumps(summary(responses), ensure_ascii=False))
    elif streams:
        print("\n".join(["", *_calls(responses)]))  # ends the streamed line
    else:
        _print_all(responses)


async def _read(stream: AsyncGenerator[pb.GenerateResponse, None], shown: bool) -> list[pb.GenerateResponse]:
    responses: list[pb.GenerateResponse] = []
    async with aclosing(stream):  # an interrupt cancels the call, so that the server stops generating
        async for response in stream:
            responses.append(response)
            if shown:
                print(response.prompt_text + response.text, end="", flush=True)
    return responses


def _print_all(responses: Sequence[pb.GenerateResponse]) -> None:
    """Print several answers, each behind a line that numbers it."""
    if prompt := "".join(response.prompt_text for response in responses):
        print(prompt)
    for number, answer in enumerate(by_index(responses), start=1):
        print(f"--- answer {number} ---")
        print("\n".join(["".join(response.text for response in answer), *_calls(answer)]))


def _calls(responses: Sequence[pb.GenerateResponse]) -> list[str]:
    """Return the tool calls of an answer, a line of JSON each."""
    calls = answer_of(responses).get("tool_calls", [])
    return [json.dumps(call["function"], ensure_ascii=False) for call in calls]
