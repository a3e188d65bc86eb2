"""The client's commands, run as processes against a world's Front."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from tests.unit.front.front_world import World

ROOT = Path(__file__).parents[3]
# A shell that runs tests in the background has SIGINT ignored, and what is started inherits that.
MAIN = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
import sys
from cluster.cli.client import advise_command, bench_command, generate_command
from cluster.cli.client.chat import chat_command
from cluster.cli.client import rebalance_command, scale_command, status_command
from cluster.cli.one_line_parser import OneLineParser
parser = OneLineParser(prog="expertmesh")
subparsers = parser.add_subparsers(required=True)
clients = (advise_command, bench_command, generate_command, rebalance_command, scale_command, status_command)
for command in (*clients, chat_command):
    command.add_parser(subparsers)
args = parser.parse_args()
sys.exit(args.run(args))
"""


async def start(*arguments: str, target: str = "", piped: bool = False) -> asyncio.subprocess.Process:
    """`piped` gives it a standard input."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-W", "error", "-c", MAIN, *arguments),
        cwd=ROOT,
        env=os.environ | ({"EXPERTMESH_TARGET": target} if target else {}),
        stdin=subprocess.PIPE if piped else None,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


async def command(*arguments: str, target: str = "") -> tuple[int | None, str, str]:
    process = await start(*arguments, target=target)
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def serve(world: World, **options: object) -> str:
    await world.serve(**options)
    return f"127.0.0.1:{world.server.grpc_port}"
