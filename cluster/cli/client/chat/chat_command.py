"""`expertmesh chat`: talk to a running server."""

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path
from typing import Any

from cluster.cli.client.chat.conversation import Conversation
from cluster.cli.client.chat.lines import Lines
from cluster.cli.client.chat.screen import Screen, wants_colours
from cluster.cli.client.chat.session import Ask, Session
from cluster.cli.client.client_command import add_target, client_of, ended, refused
from cluster.cli.client.sampling_flags import add_sampling, sampling_of, scheduling_of
from router_service.client.client import Client
from router_service.protocol import inference_pb2 as pb

Subparsers = argparse._SubParsersAction  # argparse has no public name for what add_subparsers returns


def add_parser(subparsers: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = subparsers.add_parser("chat", help="talk to a running server; lines of a pipe are turns")
    add_target(parser)
    parser.add_argument("--system", default="", metavar="TEXT", help="system prompt")
    parser.add_argument(
        "--template-kwargs",
        type=_object,
        default={},
        metavar="JSON",
        help="variables of the chat template, such as '{\"enable_thinking\": false}'",
    )
    parser.add_argument("--tools", type=Path, metavar="FILE", help="JSON list of tools in the form of OpenAI's API")
    parser.add_argument(
        "--reasoning",
        action=argparse.BooleanOptionalAction,
        help="show the model's reasoning (default: on a terminal)",
    )
    add_sampling(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    return ended(partial(_chat, args), args.target)


def _chat(args: argparse.Namespace) -> int:
    conversation = Conversation(args.system, _tools(args.tools), dict(args.template_kwargs))
    fixed: dict[str, Any] = {**scheduling_of(args), **sampling_of(args), "timeout": args.timeout}
    with asyncio.Runner() as runner:
        client = runner.run(_opened(args))
        try:
            info = runner.run(client.model())
            session = _session(args, runner, conversation, partial(_ask, client, fixed), info)
            return session.run()
        finally:
            runner.run(client.close())


def _session(
    args: argparse.Namespace, runner: asyncio.Runner, conversation: Conversation, ask: Ask, info: pb.ModelInfo
) -> Session:
    if not info.has_chat_template:
        raise ValueError(
            f"the model {info.name} has no chat template: use `expertmesh generate`, or serve --chat-template"
        )
    colours = wants_colours(sys.stdout)
    shown = args.reasoning if args.reasoning is not None else sys.stdout.isatty()
    lines, screen = Lines(), Screen(sys.stdout, colours=colours, reasoning=shown)
    if lines.interactive:
        screen.say(f"{info.name}: /help lists the commands, Ctrl-C ends an answer, Ctrl-D leaves")
    return Session(
        ask=ask,
        runner=runner,
        conversation=conversation,
        lines=lines,
        screen=screen,
        colours=colours,
        refused=partial(refused, target=args.target),
    )


async def _opened(args: argparse.Namespace) -> Client:
    """A client belongs to the event loop on which it is made."""
    return client_of(args)


def _ask(
    client: Client, fixed: dict[str, Any], conversation: Conversation
) -> AsyncGenerator[pb.GenerateResponse, None]:
    return client.generate(
        messages=conversation.messages(),
        tools=conversation.tools,
        template_kwargs=conversation.template_kwargs,
        **fixed,
    )


def _tools(path: Path | None) -> list[dict[str, Any]]:
    """Read the tools.

    Raises:
        ValueError, OSError: the file cannot be read, or is no such list.
    """
    if path is None:
        return []
    try:
        tools = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"--tools: {path}: {error}") from error
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise ValueError(f'--tools: {path}: must be a list of objects such as {{"type": "function", ...}}')
    return tools


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be a JSON object, got {text!r}: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"must be a JSON object, got {text!r}")
    return value
