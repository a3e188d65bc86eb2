"""How the server behaves under traffic, as ratios: each row compares two measurements of the same run.

    python -m tests.benchmarks.bench_traffic [--rows gap,long,...]

Long prompts beside streams, many chats in one cache, conversations, several routers, settings that cost or gain. The
sides of a ratio take turns within each round. Prints a table, and writes it as JSON beside a picture. tests/benchmarks/
README.md defines the rows. The Qwen3-like checkpoint is random, written once and kept in the user's cache.
"""

import argparse
import json
import shlex
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks.harness.report import machine
from tests.benchmarks.traffic import admission, engine_time, first_token, gaps, merge, options, picture, routers
from tests.benchmarks.traffic.figure import Figure, failed, render, result
from tests.benchmarks.traffic.plan import Plan

ROWS: dict[str, Callable[[Plan], list[Figure]]] = {
    "gap": gaps.gap,
    "long": gaps.long,
    "chats": admission.chats,
    "ttft": first_token.ttft,
    "turns": first_token.turns,
    "routers": routers.routers,
    "half": admission.half,
    "merge": merge.merge,
    "overlap": options.overlap,
    "penalty": options.penalty,
    "engine": engine_time.engine,
}
ROUNDS, QUICK_ROUNDS = 5, 1


def chosen(text: str) -> list[str]:
    """The rows named in a list with commas, in the order of the table."""
    names = text.split(",")
    if unknown := sorted(set(names) - set(ROWS)):
        raise argparse.ArgumentTypeError(f"no row {', '.join(unknown)}; there are {', '.join(ROWS)}")
    return [name for name in ROWS if name in names]


def measure(names: list[str], plan: Plan) -> list[Figure]:
    """The figures of these rows, each row printed as it ends; one that fails does not end the others."""
    figures: list[Figure] = []
    for name in names:
        try:
            row = ROWS[name](plan)
        except Exception as error:
            traceback.print_exc()
            row = [failed(name, error)]
        print(render(row), file=sys.stderr, flush=True)
        figures += row
    return figures


def heading(facts: dict[str, Any]) -> str:
    """The machine in one line."""
    return f"{facts['cores']} cores of {facts['cpu']}, torch {facts['versions']['torch']}"


def main() -> None:
    """Parse arguments, measure, print, write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=chosen, default=list(ROWS), metavar="ROW,...", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of each row, after one that warms up")
    parser.add_argument("--quick", action="store_true", help="one round: to try it out")
    parser.add_argument("--scale", choices=["full", "small"], default="full", help="small is for smoke tests")
    parser.add_argument("--out", type=Path, default=Path("build/traffic"), metavar="DIR", help="for JSON and picture")
    args = parser.parse_args()
    facts, command = machine(), shlex.join(["python", "-m", "tests.benchmarks.bench_traffic", *sys.argv[1:]])
    figures = measure(args.rows, Plan(QUICK_ROUNDS if args.quick else args.rounds, args.scale))
    print(f"{heading(facts)}\n{command}\n{render(figures)}")
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "traffic.json").write_text(json.dumps(result(facts, command, figures), indent=1))
    picture.draw(figures, heading(facts), args.out / "traffic.png")


if __name__ == "__main__":
    main()
