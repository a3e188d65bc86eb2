"""`expertmesh config`: what a configuration file changes, and the table of all keys."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.cli.failing import fail
from cluster.config import ClusterConfig, ConfigError, load_config
from experts.checkpoint.errors import CheckpointError
from router_service.front.telemetry.tracing import check_installed

if TYPE_CHECKING:
    from argparse import _SubParsersAction as Subparsers


def add_parser(subparsers: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = subparsers.add_parser("config", help="check a configuration file, or print the table of all keys")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    check = actions.add_parser("check", help="validate a file without starting anything; print what it changes")
    check.add_argument("file", type=Path, metavar="FILE.yaml")
    check.add_argument("--checkpoint", action="store_true", help="read the checkpoint that it names, too")
    check.set_defaults(run=run_check)
    table = actions.add_parser("table", help="print all keys: type, unit, default, bounds, meaning (Markdown)")
    table.set_defaults(run=run_table)


def run_check(args: argparse.Namespace) -> int:
    """Run `config check` and return its exit code."""
    try:
        config = load_config(args.file, {})
        check_installed(config.tracing)
        if args.checkpoint:
            _check_checkpoint(config)
    except (ConfigError, CheckpointError, ValueError) as error:
        return fail(str(error))
    print("\n".join(changes(config) or [f"{args.file}: everything has its default"]))
    return 0


def run_table(_: argparse.Namespace) -> int:
    """Run `config table` and return its exit code."""
    from cluster.cli.tools.config_table import render

    print(render(), end="")
    return 0


def changes(config: ClusterConfig) -> list[str]:
    """A line for each value that is not the default."""
    default = ClusterConfig().to_dict()
    return [
        f"{section}.{key} = {json.dumps(value)} (default {json.dumps(default[section][key])})"
        for section, values in config.to_dict().items()
        for key, value in values.items()
        if value != default[section][key]
    ]


def _check_checkpoint(config: ClusterConfig) -> None:
    from cluster.serve.preflight import check_model

    check_model(config)
