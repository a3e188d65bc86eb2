"""`expertmesh token new`: make a bearer token and its line for the tokens file."""

import argparse
import sys
from typing import TYPE_CHECKING

from cluster.cli.failing import fail
from router_service.front.auth.tokens import Role, new_token

if TYPE_CHECKING:
    from argparse import _SubParsersAction as Subparsers

NOTE = "The first line is the token, shown this once; the second belongs in the server's front.tokens_file."


def add_parser(subparsers: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = subparsers.add_parser("token", help="make a bearer token")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    new = actions.add_parser("new", help="print a token once, and the line with its hash for front.tokens_file")
    new.add_argument("name", metavar="NAME", help="whose it is: shown in logs and errors")
    roles = [str(role) for role in Role]
    new.add_argument("--role", choices=roles, default=str(Role.INFERENCE), help="default: %(default)s")
    new.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    try:
        token, line = new_token(args.name, Role(args.role))
    except ValueError as error:
        return fail(str(error))
    print(NOTE, file=sys.stderr)
    print(token)
    print(line)
    return 0
