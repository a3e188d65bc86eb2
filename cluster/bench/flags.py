"""The flags of `expertmesh bench`, and what they may be."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cluster.bench.driver import Limits
from cluster.bench.summary import BOUNDS, parse_bound
from cluster.bench.workload import Synthetic, parse_lengths

T = TypeVar("T")
REQUESTS = 100
FORMATS = (".png", ".svg", ".pdf")


def add_load_flags(parser: argparse.ArgumentParser) -> None:
    """Add how many requests are sent, and when."""
    load = parser.add_argument_group("load", "without --rate, --concurrency requests are kept in flight")
    load.add_argument(
        *("--rate", "--request-rate"), type=_positive, metavar="R", help="requests/s that arrive; inf: all at once"
    )
    load.add_argument(
        "--burstiness",
        type=_positive,
        default=1.0,
        metavar="B",
        help="of the arrivals: 1 a Poisson process, less in bursts, more evenly, inf all alike (default: %(default)s)",
    )
    load.add_argument(
        *("--concurrency", "--max-concurrency"),
        type=_count,
        metavar="N",
        help="requests in flight (default: 1); with --rate at most so many, the others wait (default: no limit)",
    )
    load.add_argument(
        *("--requests", "--num-prompts"),
        type=_count,
        metavar="N",
        help=f"requests to send (default: {REQUESTS}, or no limit with --duration)",
    )
    load.add_argument("--duration", type=_positive, metavar="SECONDS", help="send nothing later than this")
    load.add_argument(
        "--warmup", type=_count_or_none, default=0, metavar="N", help="requests before that are not counted"
    )
    load.add_argument("--timeout", type=_positive, metavar="SECONDS", help="deadline of each request")
    load.add_argument(
        "--connections", type=_count, default=1, metavar="N", help="take turns; Fronts share load by connection"
    )


def add_prompt_flags(parser: argparse.ArgumentParser) -> None:
    """Add what is asked."""
    group = parser.add_argument_group("prompts", "random tokens and answers of exact lengths, without --prompts")
    for name, default, of in (("--input-tokens", "512", "a prompt"), ("--output-tokens", "128", "an answer")):
        lengths, said = _said(parse_lengths), f"of {of} (default: {default})"
        group.add_argument(name, type=lengths, default=parse_lengths(default), metavar="N|LOW:HIGH", help=said)
    group.add_argument(
        "--shared-prefix-tokens",
        type=_count_or_none,
        default=0,
        metavar="N",
        help="more that all prompts of a group begin with (default: 0)",
    )
    group.add_argument(
        "--shared-prefix-groups", type=_count, default=1, metavar="N", help="groups, which take turns (default: 1)"
    )
    group.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help='JSON lines with "prompt", "messages" or "tokens", and "output_tokens" if not --output-tokens',
    )
    group.add_argument("--ignore-eos", action="store_true", help="with --prompts: answers of exact lengths")
    group.add_argument(
        "--temperature", type=_temperature, default=0.0, metavar="X", help="of sampling (default: %(default)s)"
    )
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of prompts and arrivals (default: 0)")
    group.add_argument(
        "--cache-salt", metavar="TEXT", help="share cached prefixes with earlier runs of this salt (default: with none)"
    )


def add_result_flags(parser: argparse.ArgumentParser) -> None:
    """Add where results go."""
    group = parser.add_argument_group("results")
    group.add_argument(
        "--goodput",
        nargs="+",
        type=_said(parse_bound),
        default=[],
        metavar="NAME:MS",
        help=f"count requests within these bounds: {', '.join(BOUNDS)} (e2el: end to end)",
    )
    group.add_argument("--json", type=_writable, metavar="FILE", help="write all figures and each request there")
    group.add_argument("--chart", type=_picture, metavar="FILE", help="draw a picture there: png, svg or pdf")


def limits_of(args: argparse.Namespace) -> Limits:
    """Return the limits that were given.

    Raises:
        ValueError: they do not go together.
    """
    if args.rate is not None and math.isinf(args.rate) and not args.requests and args.duration:
        raise ValueError("--rate inf: needs --requests: without a number of them no end of requests arrives at once")
    requests = args.requests or (None if args.duration else REQUESTS)
    return Limits(requests, args.duration, args.concurrency or (1 if args.rate is None else None))


def synthetic_of(args: argparse.Namespace) -> Synthetic:
    """Return the random prompts that were asked for."""
    own = (args.input_tokens, args.output_tokens)
    return Synthetic(*own, args.shared_prefix_tokens, args.shared_prefix_groups, args.seed)


def _said(parse: Callable[[str], T]) -> Callable[[str], T]:
    """`parse` for argparse, which shows only the words of its own kind of error."""

    def parsed(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parsed


def _whole(least: int) -> Callable[[str], int]:
    def parsed(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, got {text!r}")
        return value

    return parsed


_count, _count_or_none = _whole(1), _whole(0)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _positive(text: str) -> float:
    if not (value := _number(text)) > 0:
        raise argparse.ArgumentTypeError(f"must be a number over 0, got {text!r}")
    return value


def _temperature(text: str) -> float:
    if not 0 <= (value := _number(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of at least 0, got {text!r}")
    return value


def _writable(text: str) -> Path:
    """A path whose folder is there: a long run should not end in an error about it."""
    if not (path := Path(text)).parent.is_dir() or path.is_dir():
        raise argparse.ArgumentTypeError(f"cannot write {text}: name a file in a folder that exists")
    return path


def _picture(text: str) -> Path:
    if (path := _writable(text)).suffix.lower() not in FORMATS:
        raise argparse.ArgumentTypeError(f"must end in {', '.join(FORMATS)}, got {text!r}")
    return path
