"""The `expertmesh` command."""

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from cluster.cli.broken_pipe import end_on_broken_pipe
from cluster.cli.client import (
    advise_command,
    bench_command,
    generate_command,
    rebalance_command,
    scale_command,
    status_command,
)
from cluster.cli.client.chat import chat_command
from cluster.cli.failing import EXIT_INTERRUPTED, fail
from cluster.cli.one_line_parser import OneLineParser
from cluster.cli.serve import demo_command, drain_command, serve_command
from cluster.cli.tools import config_command, inspect_command, token_command


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = OneLineParser(prog="expertmesh", description="Serve Mixture-of-Experts language models.")
    parser.add_argument("--version", action="version", version=f"expertmesh {own_version()}")
    subparsers = parser.add_subparsers(metavar="COMMAND")
    commands = (
        serve_command,
        generate_command,
        chat_command,
        bench_command,
        status_command,
        rebalance_command,
        advise_command,
        scale_command,
        inspect_command,
        config_command,
        token_command,
        drain_command,
        demo_command,
    )
    for command in commands:
        command.add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the arguments, run the command, return its exit code.

    0 is good, 1 that Ray failed, 2 an error said in one line on stderr, 130 an interrupt, 141 that nobody reads what is
    printed any more.
    """
    return end_on_broken_pipe(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> int:
    root = parser()
    args = root.parse_args(argv)
    if not hasattr(args, "run"):  # no command given
        root.print_help()
        return 0
    if (clash := name_clash()) is not None:
        return fail(clash)
    try:
        code: int = args.run(args)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return code


def own_version() -> str:
    """The version of the installed distribution."""
    try:
        return version("expertmesh")
    except PackageNotFoundError:
        return "unknown (not installed)"


def name_clash() -> str | None:
    """What is wrong if another distribution claims one of our package names: chance would decide which is imported."""
    try:
        found = version("kernels")
    except PackageNotFoundError:
        return None
    return f"the distribution 'kernels' {found} is installed and hides ours: pip uninstall kernels, then try again"


if __name__ == "__main__":
    sys.exit(main())
