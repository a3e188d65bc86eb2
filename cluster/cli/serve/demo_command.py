"""`expertmesh demo`: serve the bundled model, stream requests, show what they cost, kill a shard under them, stop."""

import argparse
import asyncio
import sys
import time
from typing import TYPE_CHECKING, Any

from cluster.cli.failing import fail
from cluster.cli.serve.serve_command import run_cluster
from cluster.cli.serve.serve_flags import add_cluster_flags, config_of
from cluster.config import ClusterConfig, ConfigError

if TYPE_CHECKING:
    from argparse import _SubParsersAction as Subparsers
    from collections.abc import AsyncGenerator

    from router_service.client.client import Client
    from router_service.client.fields import SamplingFields
    from router_service.protocol.inference_pb2 import GenerateResponse

PROMPTS = ("def read_file(path):", "import os", "class Queue:")
QUESTION = "Document shutil.copyfile"
STREAMS = 16
# Unless told otherwise: then a shard may be killed at the end.
COPIES = 2
SAMPLING: "SamplingFields" = {"max_tokens": 96, "temperature": 0.7, "top_p": 0.9, "seed": 0}
MAX_TOKENS = 48


def add_parser(subparsers: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = subparsers.add_parser("demo", help="serve the bundled model, run requests, show what they cost")
    add_cluster_flags(parser)
    parser.set_defaults(run=run, checkpoint=None)


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    if args.config is not None and _asks_callers(args):
        return fail(
            "the demo's own client has neither certificate nor token: leave front.tls_* and front.tokens_file out"
        )
    if args.copies is None and args.config is None and args.shards != 1:
        args.copies = COPIES
    return run_cluster(args, lambda config, status, _: asyncio.run(_show(config, status)))


def _asks_callers(args: argparse.Namespace) -> bool:
    try:
        front = config_of(args).front
    except ConfigError:  # `run_cluster` says what is wrong
        return False
    return bool(front.tls_cert or front.tokens_file)


async def _show(config: ClusterConfig, status: dict[str, Any]) -> None:
    from cluster.cli.client.status_command import render
    from cluster.cli.serve.demo_failure import show_failure
    from router_service.client.client import Client

    async with Client(f"{config.front.host}:{status['grpc_port']}") as client:
        await client.wait_ready(30.0)
        print(f"\nOne prompt, streamed:\n\n{PROMPTS[0]}", end="", flush=True)
        await _print(client.generate(prompt=PROMPTS[0], **SAMPLING))
        print(f"\nOne question, through the chat template:\n\nuser: {QUESTION}\nassistant: ", end="", flush=True)
        chat = [{"role": "user", "content": QUESTION}]
        await _print(client.generate(messages=chat, **SAMPLING))
        print(f"\n{STREAMS} streams at once, {MAX_TOKENS} tokens each ...", flush=True)
        await asyncio.gather(*(_drain(client, index) for index in range(STREAMS)))
        await asyncio.sleep(1.5)  # the routers report once a second
        print(render(await client.cluster(), time.time()))
        # Another machine's process cannot be killed from here, and without a copy its experts would be waited for.
        if config.experts.copies > 1 and not config.cluster.address:
            await show_failure(client, PROMPTS)
    sys.stdout.flush()


async def _print(stream: "AsyncGenerator[GenerateResponse, None]") -> None:
    async for response in stream:
        print(response.text, end="", flush=True)
    print()


async def _drain(client: "Client", index: int) -> None:
    prompt = PROMPTS[index % len(PROMPTS)]
    async for _ in client.generate(prompt=prompt, max_tokens=MAX_TOKENS, seed=index, ignore_eos=True):
        pass
