"""The `expertmesh` command."""

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import NoReturn

from cluster.cli import (
    config_command,
    demo_command,
    drain_command,
    generate_command,
    inspect_command,
    serve_command,
    status_command,
    token_command,
)
from cluster.cli.client_command import EXIT_INTERRUPTED, fail


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, like all our errors."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and exit with 2."""
        sys.exit(fail(f"{message} (see {self.prog} --help)"))


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = OneLineParser(prog="expertmesh", description="Serve Mixture-of-Experts language models.")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    commands = (
        serve_command,
        generate_command,
        status_command,
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
    """Parse the arguments, run the command, return its exit code: 0 good, 2 an error said in one line on stderr."""
    args = parser().parse_args(argv)
    if (clash := name_clash()) is not None:
        return fail(clash)
    try:
        code: int = args.run(args)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return code


def name_clash() -> str | None:
    """What is wrong if another distribution claims one of our package names: chance would decide which is imported."""
    try:
        found = version("kernels")
    except PackageNotFoundError:
        return None
    return f"the distribution 'kernels' {found} is installed and hides ours: pip uninstall kernels, then try again"


if __name__ == "__main__":
    sys.exit(main())
