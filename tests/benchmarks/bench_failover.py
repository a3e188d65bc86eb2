"""What failures cost under load: streams lost, tokens that differ, the longest pause, the throughput.

    python -m tests.benchmarks.bench_failover [CHECKPOINT] [--rows killed,stopped] [--seed N]

For each row a cluster is started (of the bundled model unless told otherwise), its answers are taken undisturbed, and
streams flow before and during the strike: every answer is compared with the undisturbed one. What is struck and when is
drawn from the seed, which is printed: the same seed strikes the same shards.
"""

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from cluster.table import duration, table
from tests.benchmarks.failover.rows import ROWS, Figures, Row, measure

HEADER = ("strike", "answers", "lost", "differ", "gap before", "gap", "gap p99", "tokens/s", "struck", "hedged")


def chosen(words: str) -> list[Row]:
    """The rows whose names have one of the words.

    Raises:
        SystemExit: none has.
    """
    wanted = words.split(",")
    rows = [row for row in ROWS if any(word in row.name for word in wanted)]
    if not rows:
        raise SystemExit(f"--rows {words}: none of {'; '.join(row.name for row in ROWS)} has one of these words")
    return rows


def render(figures: Sequence[Figures]) -> str:
    """The rows as a table, and below it what was lost or differs."""
    faults = [f"  {one.name}: {what}" for one in figures for what in (*one.lost[:5], *one.differ[:5])]
    lines = [table(HEADER, [_cells(one) for one in figures])]
    return "\n".join([*lines, *(["", "lost or different:", *faults] if faults else [])])


def _cells(one: Figures) -> tuple[str, ...]:
    hedged = f"{one.duplicates / one.asks:.1%}" if one.asks else "no calls"
    gaps = (duration(one.gap_before), duration(one.gap), duration(one.gap_p99))
    counts = (str(one.answers), str(len(one.lost)), str(len(one.differ)))
    rates = (f"{one.rate_before:.0f}", f"{one.rate:.0f} ({one.rate / one.rate_before:.0%})")
    return (one.name, *counts, *gaps, *rates, hedged)


def main() -> None:
    """Parse arguments, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", type=Path, help="directory (default: the bundled model)")
    parser.add_argument("--rows", type=chosen, default=list(ROWS), help="words of rows, with commas (default: all)")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31), help="what the strikes are drawn from")
    parser.add_argument("--calm", type=float, default=15.0, help="seconds of streams before the strike")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    figures = []
    for row in args.rows:
        figures.append(measure(row, args.checkpoint, args.seed, args.calm))
        print(f"{row.name}: {'; '.join(figures[-1].done)}", flush=True)
    print(render(figures))
    if args.json:
        args.json.write_text(json.dumps({"seed": args.seed, "rows": [asdict(one) for one in figures]}, indent=1))


if __name__ == "__main__":
    main()
