"""`expertmesh inspect`: what a model is, what it takes and what it moves, from its configuration and headers alone."""

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from cluster.cli.failing import fail

if TYPE_CHECKING:
    from argparse import _SubParsersAction as Subparsers

    from cluster.planner.inspection import Inspection


def add_parser(subparsers: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = subparsers.add_parser("inspect", help="show what a model is, takes and moves, without loading it")
    parser.add_argument("model", metavar="MODEL_OR_DIRECTORY", help="a checkpoint, or the name of a published model")
    parser.add_argument("--shards", type=int, default=2, metavar="N", help="expert shards (default: %(default)s)")
    parser.add_argument("--copies", type=int, default=1, metavar="N", help="shards that hold each expert (default: 1)")
    parser.add_argument("--dtype", choices=("auto", "bfloat16", "float16", "float32"), default="auto")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from cluster.cli.tools.inspect_text import render

    try:
        found = look(args.model, args.shards, args.dtype, args.copies)
    except ValueError as error:
        return fail(str(error))
    print(json.dumps(asdict(found) | {"stored_bytes": found.stored_bytes}) if args.json else render(found))
    return 0


def look(model: str, shards: int, dtype: str = "auto", copies: int = 1) -> "Inspection":
    """Inspect a published model or a directory.

    Raises:
        CheckpointError: see `open_inspected_model`.
        ValueError: more shards than experts, or more copies than shards.
    """
    # torch takes a second to import, and --help needs none.
    import torch

    from cluster.config import ClusterConfig
    from cluster.planner.config_resolver import computes_packed, forms_of, room_here
    from cluster.planner.inspected_model import open_inspected_model
    from cluster.planner.inspection import inspect
    from cluster.planner.model import dtype_of

    inspected, config, on_gpu = open_inspected_model(model), ClusterConfig(), torch.cuda.is_available()
    served = dtype_of(dtype, inspected.spec.dtype, inspected.where)
    faster = computes_packed(config.experts.backend, "cuda" if on_gpu else "cpu")
    routers = config.cluster.routers
    forms = forms_of(inspected.spec, inspected.tensors, served, on_gpu, config.router, routers, faster, copies)
    return inspect(inspected, served, shards, forms, room_here(config, on_gpu), copies)
