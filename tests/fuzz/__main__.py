"""Fuzz the readers of untrusted bytes.

    python -m tests.fuzz [--inputs N] [--seed S] [--target NAME] [--case NAME:NUMBER]

Prints the seed. Exits with 1 if an input did what no documentation says, or memory grew.
"""

import argparse
import secrets
import sys
import time
from pathlib import Path

from tests.fuzz import guided
from tests.fuzz.mutate import mutated
from tests.fuzz.runner import MEBI, Result, read, run, shares
from tests.fuzz.targets import BY_NAME, TARGETS

INPUTS = 1_000_000


def main() -> int:
    """Run, or replay one case; return the exit code."""
    args = _parsed()
    if args.case:
        return _replay(args.case, args.seed)
    print(f"seed {args.seed}, {args.inputs} inputs, {guided.VERSION or 'without atheris'}", flush=True)
    targets, started = [BY_NAME[name] for name in args.target] or TARGETS, time.monotonic()
    # Half of them guided by coverage, where there is such a guide.
    own = args.inputs - args.inputs // 2 if guided.VERSION else args.inputs
    failed = 0
    for target, count in shares(targets, own):
        failed += _tell(run(target, args.seed, range(count)), args.seed)
    for target, count in shares(targets, args.inputs - own) if guided.VERSION else ():
        failed += _tell(guided.run(target, args.seed, count), args.seed)
    print(f"{args.inputs} inputs in {time.monotonic() - started:.0f} s: {failed or 'no'} faults", flush=True)
    return int(failed > 0)


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Fuzz the readers of untrusted bytes.")
    parser.add_argument(
        "--inputs", type=int, default=INPUTS, metavar="N", help="over all targets (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=secrets.randbits(32), metavar="S", help="default: drawn, and printed"
    )
    parser.add_argument(
        "--target", action="append", default=[], choices=list(BY_NAME), help="only this one; may repeat"
    )
    parser.add_argument("--case", metavar="NAME:NUMBER", help="replay one input of --seed, or NAME:FILE, one in a file")
    return parser.parse_args()


def _replay(case: str, seed: int) -> int:
    name, _, which = case.partition(":")
    if name not in BY_NAME or not which:
        print(f"--case is {case!r}, it must be NAME:NUMBER or NAME:FILE; names are {', '.join(BY_NAME)}")
        return 2
    target = BY_NAME[name]
    data = mutated(target, seed, int(which)) if which.isdigit() else Path(which).read_bytes()
    fault = read(target, int(which) if which.isdigit() else -1, data)
    print(fault or f"{case}: nothing wrong with {len(data)} bytes")
    if fault is not None:
        target.check(data)  # with its traceback
    return int(fault is not None)


def _tell(result: Result, seed: int) -> int:
    """Print a result; return the number of its faults."""
    rate = result.inputs / max(result.seconds, 1e-9)
    grown = f"grew by {result.growth_bytes / MEBI:.1f} MiB, at most {result.peak_bytes / MEBI:.1f}"
    print(f"{result.target:16} {result.inputs:8} inputs {rate:8.0f}/s  {grown}", flush=True)
    for fault in result.faults:
        print(f"  {fault}", flush=True)
        if fault.number >= 0:
            print(f"  replay: python -m tests.fuzz --seed {seed} --case {fault.target}:{fault.number}", flush=True)
    return len(result.faults)


if __name__ == "__main__":
    sys.exit(main())
