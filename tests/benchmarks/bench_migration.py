"""What moving experts costs streams: how many are lost, tokens that differ, the 99th percentile between tokens.

    python -m tests.benchmarks.bench_migration [CHECKPOINT] [--rows killed] [--moves N] [--seconds S] [--seed N]

For each row a cluster is started (of the bundled model unless told otherwise), its answers are taken undisturbed, and
streams flow before and while experts move: placements that the seed draws, one every five seconds, nearly every expert
to other shards. Every answer is compared with the undisturbed one.
"""

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from cluster.table import duration, table
from tests.benchmarks.migration.rows import ROWS, Figures, Row, measure

HEADER = (
    "what", "moves", "copies", "longest", "answers", "lost", "differ", "p50 before", "p50", "p99 before", "p99", "gap",
    "tokens/s",
)  # fmt: skip


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


def shortened(rows: Sequence[Row], moves: int | None, seconds: float | None) -> list[Row]:
    """The rows with so many moves each, or with as many as the seconds hold where none is killed."""
    made = []
    for row in rows:
        if seconds and not row.kill:
            row = replace(row, moves=max(1, round(seconds / row.every_s)))
        made.append(replace(row, moves=moves) if moves else row)
    return made


def render(figures: Sequence[Figures]) -> str:
    """The rows as a table, and below it what was lost, differs or has failed."""
    faults = [f"  {one.name}: {what}" for one in figures for what in (*one.lost[:5], *one.differ[:5], *one.faults[:5])]
    lines = [table(HEADER, [_cells(one) for one in figures])]
    return "\n".join([*lines, *(["", "lost, different or failed:", *faults] if faults else [])])


def _cells(one: Figures) -> tuple[str, ...]:
    moves = ", ".join(f"{count} {state}" for state, count in one.states.items())
    counts = (str(one.answers), str(len(one.lost)), str(len(one.differ)))
    p50 = (duration(one.p50_before), duration(one.p50))
    p99 = f"{duration(one.p99)} ({one.p99 / one.p99_before:.2f})" if one.p99_before else duration(one.p99)
    rate = f"{one.rate:.0f} ({one.rate / one.rate_before:.0%})"
    moved = (moves, str(one.copies_moved), duration(one.move_s))
    return (one.name, *moved, *counts, *p50, duration(one.p99_before), p99, duration(one.gap), rate)


def main() -> None:
    """Parse arguments, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", type=Path, help="directory (default: the bundled model)")
    parser.add_argument("--rows", type=chosen, default=list(ROWS), help="words of rows, with commas (default: all)")
    parser.add_argument("--moves", type=int, help="how many, instead of each row's own number")
    parser.add_argument("--seconds", type=float, help="of the rows that move every 5 s, instead of 60")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31), help="what is drawn from")
    parser.add_argument("--calm", type=float, default=60.0, help="seconds of streams before the first move")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    figures: list[Figures] = []
    for row in shortened(args.rows, args.moves, args.seconds):
        figures.append(measure(row, args.checkpoint, args.seed, args.calm))
        print(render(figures[-1:]), flush=True)
    print(render(figures))
    if args.json:
        args.json.write_text(json.dumps({"seed": args.seed, "rows": [asdict(one) for one in figures]}, indent=1))


if __name__ == "__main__":
    main()
