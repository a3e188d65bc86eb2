"""Every figure of native speed in one run: ours, the baselines and the machine's limits, with the floor of each.

    python -m tests.benchmarks.bench_native [--shape qwen3,mixtral,deepseek] [--rows decode,layer] [--llama-bench PATH]

Prints a table and writes `native.json` and `native.png` to `build/native`. The sides of a figure take turns within each
round, so that a noisy neighbour hits all of them. `--against FILE` says what changed since another run by more than the
noise of both. tests/benchmarks/README.md defines the rows. Checkpoints are random, written once and kept in the user's
cache.
"""

import argparse
import json
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.harness.checkpoints import SHAPES
from tests.benchmarks.harness.report import machine
from tests.benchmarks.llama_cpp.programs import LlamaCpp
from tests.benchmarks.native import format_rows, kernel_rows, limits, serving_rows, transfer_rows
from tests.benchmarks.native.figure import Figure, absent, compare, read, render
from tests.benchmarks.native.plan import Plan
from tests.benchmarks.traffic import figure as traffic
from tests.benchmarks.traffic import picture

ROWS: dict[str, Callable[[Plan], list[Figure]]] = {
    "decode": serving_rows.decode,
    "prefill": serving_rows.prefill,
    "distribution": serving_rows.distribution,
    "int4": format_rows.int4,
    "packed": format_rows.packed,
    "layer": kernel_rows.layer,
    "attention": kernel_rows.attention,
    "exchange": transfer_rows.exchange_row,
    "loading": transfer_rows.loading,
}
# Their checkpoints or sizes are the same whatever the shape: measured once, with the first one.
ONCE = ("packed", "exchange")
ROUNDS = 5
OUT = Path("build/native")


def chosen(names: Sequence[str], text: str) -> list[str]:
    """Those of `names` that a list with commas has, in their order; `all` for all."""
    asked = set(names if text == "all" else text.split(","))
    if unknown := sorted(asked - set(names)):
        raise argparse.ArgumentTypeError(f"no {', '.join(unknown)}; there are {', '.join(names)}")
    return [name for name in names if name in asked]


def limit_figures(found: limits.Limits) -> list[Figure]:
    """The machine's limits as figures."""
    peaks = [
        Figure("limits", f"{kind.replace('_', ' ')}, registers only", "GFLOP/s", values)
        for kind, values in found.peaks.items()
    ]
    return [
        Figure("limits", "reading memory", "GB/s", found.read, note=found.source),
        *peaks,
        Figure("limits", "ping-pong over a unix socket", "us", found.ping),
    ]


def measure(rows: Sequence[str], plans: Sequence[Plan]) -> list[Figure]:
    """The figures of all rows for all shapes, each row printed as it ends; one that fails does not end the others."""
    figures: list[Figure] = []
    for plan in plans:
        try:
            for row in rows:
                if row not in ONCE or plan is plans[0]:
                    figures += _row(row, plan)
        finally:
            plan.close()
    return figures


def _row(row: str, plan: Plan) -> list[Figure]:
    try:
        found = ROWS[row](plan)
    except Exception as error:
        traceback.print_exc()
        plan.close()
        found = [absent(row, f"{plan.shape}: failed", f"{type(error).__name__}: {error}")]
    print(render(found), file=sys.stderr, flush=True)
    return found


def run(args: argparse.Namespace) -> list[Figure]:
    """The machine's limits, then all rows."""
    rounds = 1 if args.quick else args.rounds
    llama = LlamaCpp.of(args.llama_bench) if args.llama_bench else None
    found = limits.measure(max(3, rounds) if not args.quick else 1)
    common = (args.scale, rounds, args.shards, found, llama, not args.skip_transformers)
    return limit_figures(found) + measure(args.rows, [Plan(shape, *common) for shape in args.shape])


def draw(figures: Sequence[Figure], heading: str, path: Path) -> None:
    """The figures that have a target as a picture; without a Chromium there is none, and a line says so."""
    aimed = [traffic.Figure(f.row, f.what, f.rounds, f.target, f.at_least) for f in figures if f.target is not None]
    try:
        picture.draw(aimed, heading, path, "bench_native")
    except Exception as error:  # whatever keeps a browser from starting
        print(f"no picture: {type(error).__name__}: {str(error).splitlines()[0]}", file=sys.stderr)


def arguments() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shapes, rows = list(SHAPES), list(ROWS)
    for flag, names in (("--shape", shapes), ("--rows", rows)):
        take = lambda text, names=names: chosen(names, text)  # noqa: E731
        parser.add_argument(flag, type=take, default=names, metavar="NAME,...", help=f"of {', '.join(names)}")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of each figure, after one that warms up")
    parser.add_argument("--quick", action="store_true", help="one round: to try it out")
    parser.add_argument("--scale", choices=["full", "small"], default="full", help="small is for smoke tests")
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--llama-bench", type=Path, metavar="PATH", help="llama.cpp's program, to take part")
    parser.add_argument("--skip-transformers", action="store_true")
    parser.add_argument("--against", type=Path, metavar="FILE", help="native.json of another run, to compare with")
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR", help="for JSON and picture")
    return parser


def heading_of(facts: dict[str, Any]) -> str:
    """The machine in one line."""
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    return f"{facts['cores']} cores of {facts['cpu']}, {versions}"


def main() -> None:
    """Parse arguments, measure, print, write the files."""
    parser = arguments()
    args = parser.parse_args()
    try:
        before = read(args.against) if args.against else None
        figures = run(args)
    except ValueError as error:
        parser.error(str(error))
    facts, command = machine(), shlex.join(["python", "-m", "tests.benchmarks.bench_native", *sys.argv[1:]])
    print(f"{heading_of(facts)}\n{command}\n{render(figures)}")
    args.out.mkdir(parents=True, exist_ok=True)
    result = {"machine": facts, "command": command, "figures": [figure.as_dict() for figure in figures]}
    (args.out / "native.json").write_text(json.dumps(result, indent=1))
    draw(figures, heading_of(facts), args.out / "native.png")
    if before is not None:
        print(f"\nchanged since {args.against} by more than the noise of both:")
        print("\n".join(compare(figures, before)) or "nothing")


if __name__ == "__main__":
    main()
