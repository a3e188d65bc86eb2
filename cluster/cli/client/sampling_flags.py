"""The flags that say how an answer is drawn and scheduled: those of `generate` and `chat`."""

import argparse
from typing import TypedDict, cast

from router_service.client.fields import SamplingFields

COUNTS = ("max_tokens", "min_tokens", "top_k", "seed")
# Of these `chat` shows nothing.
LOGPROBS = ("logprobs", "prompt_logprobs")
# Where they are not those of 32 bits without a sign.
BOUNDS = {"seed": (0, 1 << 64), "top_k": (-1, 1 << 31)}
SHARES = ("temperature", "top_p", "min_p")


class Scheduling(TypedDict):
    """What a request says beside its sampling."""

    priority: int
    cache_salt: str
    fallback: str


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Add the flags; `sampling_of` and `scheduling_of` read them."""
    add_counts(parser, COUNTS)
    for name in SHARES:
        parser.add_argument(_flag(name), type=float, metavar="X")
    parser.add_argument("--stop", action="append", metavar="TEXT", help="end the answer at TEXT (repeatable)")
    parser.add_argument(
        "--logit-bias",
        action="append",
        type=_bias,
        metavar="ID=BIAS",
        help="add BIAS, -100 to 100, to the logit of the token ID (repeatable)",
    )
    parser.add_argument("--ignore-eos", action="store_true", help="go on behind end-of-sequence tokens")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="deadline of the call")
    _add_scheduling(parser)


def add_counts(parser: argparse.ArgumentParser, names: tuple[str, ...]) -> None:
    """Add a flag for each whole number."""
    for name in names:
        parser.add_argument(_flag(name), type=int, metavar="N")


def sampling_of(args: argparse.Namespace) -> SamplingFields:
    """Return the sampling fields that were given on the command line; the server checks their bounds.

    Raises:
        ValueError: one cannot even be sent.
    """
    names = (*COUNTS, *LOGPROBS, *SHARES, "stop")
    given = {name: value for name in names if (value := getattr(args, name, None)) is not None}
    for name in (*COUNTS, *LOGPROBS):
        low, high = BOUNDS.get(name, (0, 1 << 32))
        if not low <= given.get(name, 0) < high:
            raise ValueError(f"{_flag(name)}: out of range: {given[name]}")
    if args.logit_bias:
        given["logit_bias"] = dict(args.logit_bias)
    return cast(SamplingFields, {**given, "ignore_eos": args.ignore_eos})


def scheduling_of(args: argparse.Namespace) -> Scheduling:
    """Return the other fields that were given.

    Raises:
        ValueError: one cannot even be sent.
    """
    if not -(1 << 31) <= args.priority < 1 << 31:
        raise ValueError(f"--priority: out of range: {args.priority}")
    return {"priority": args.priority, "cache_salt": args.cache_salt, "fallback": args.fallback}


def _add_scheduling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--priority", type=int, default=0, metavar="N", help="lower runs first, -100 to 100 (default: %(default)s)"
    )
    parser.add_argument(
        "--cache-salt", default="", metavar="TEXT", help="share cached prefixes only with requests of the same salt"
    )
    parser.add_argument(
        "--fallback",
        choices=("wait", "drop", "next_best", "fail"),
        default="",
        help="what to do where an expert has no living copy (default: the server's)",
    )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _bias(text: str) -> tuple[int, float]:
    """Parse ID=BIAS."""
    id, _, bias = text.partition("=")
    try:
        parsed = int(id), float(bias)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be ID=BIAS such as 42=-1.5, not {text!r}") from None
    if not 0 <= parsed[0] < 1 << 32:
        raise argparse.ArgumentTypeError(f"a token's ID is at least 0 and below 2^32, not {id}")
    return parsed
