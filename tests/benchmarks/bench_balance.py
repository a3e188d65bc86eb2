"""What moving experts gives on a real cluster: static, by EPLB's placement, by ours; when heat goes about; unattended.

    python -m tests.benchmarks.bench_balance [--seconds 60] [--rows placements,turns,killed] [--rounds 3]

`placements`: a small checkpoint whose experts are as unequal as Zipf's law, in each layer others, first as experts are
spread at the start; then our placement and EPLB's, each made from what was routed before, by turns for `--rounds`
rounds. Shards are simulated accelerators: each sleeps for its calls as long as `--simulated-us` says (a call, an
expert, a pair), so that they are parallel whatever cores there are. `turns`: the bundled model's text, whose domain
changes every `--turn-seconds`; first without the balancer, then with it, simulated alike. `killed`: the balancer is
killed once, and then whenever it is there, until its alert would fire.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cluster.table import table
from tests.benchmarks.balance.clusters import Setting
from tests.benchmarks.balance.killed import Killed, killed
from tests.benchmarks.balance.live import Costs
from tests.benchmarks.balance.placements import NAMES, Placements, placements
from tests.benchmarks.balance.turns import Turns, turns

ROWS = ("placements", "turns", "killed")


def chosen(words: str) -> list[str]:
    """The rows that are named.

    Raises:
        SystemExit: one is no row.
    """
    wanted = words.split(",")
    if unknown := [word for word in wanted if word not in ROWS]:
        raise SystemExit(f"--rows {words}: there is no {unknown[0]!r}, take some of {', '.join(ROWS)}")
    return wanted


def render(found: Placements | Turns | Killed) -> str:
    """A row's figures as a table and what belongs to it."""
    if isinstance(found, Placements):
        return "\n".join(_placements(found))
    return "\n".join(_turns(found) if isinstance(found, Turns) else _killed(found))


def _placements(found: Placements) -> list[str]:
    header = ("placement", "modelled", "against static", *COSTS)
    static_us = found.modelled_us["static"]
    rows = [
        (name, f"{us:.0f} us", f"{1 - us / static_us:.1%}", *_cells(found.median(name)))
        for name, us in ((name, found.modelled_us[name]) for name in NAMES)
    ]
    pairs = zip(found.promised, found.gave, strict=True)
    skew = ", ".join(f"{exponent:.2f}" for exponent in found.exponents)
    return [
        table(header, rows),
        *(f"promised {promised:.1%}, gave {gave:.1%}" for promised, gave in pairs),
        f"Zipf exponents by layer {skew}; hottest experts {', '.join(map(str, found.hottest))}",
        *_failed(found.failed),
    ]


def _turns(found: Turns) -> list[str]:
    rows = [("without the balancer", *_cells(found.alone)), ("with it", *_cells(found.balanced))]
    gave = ", ".join("unknown" if gain is None else f"{gain:.1%}" for gain in found.gave)
    return [
        table(("heat goes about", *COSTS), rows),
        f"{found.plans} plans in {found.changes} changes of heat, at most {found.most_in_a_turn} in a turn, "
        f"{found.bytes / 2**20:.1f} MiB moved",
        f"promised {', '.join(f'{gain:.1%}' for gain in found.promised) or 'nothing'}; gave {gave or 'nothing'}",
        *_failed(found.failed),
    ]


def _killed(found: Killed) -> list[str]:
    rows = [("before", *_cells(found.before)), ("while it is killed", *_cells(found.meanwhile))]
    return [
        table(("balancer", *COSTS), rows),
        f"killed once, it looked again {found.replaced_s:.1f} s later; kept dead by {found.kills} kills, the alert "
        f"fires after {found.alert_s:.0f} s; left alone, it looked {found.back_s:.1f} s later",
        *_failed(found.failed),
    ]


COSTS = ("tokens/s", "straggler wait", "exposed wait")


def _cells(costs: Costs) -> tuple[str, ...]:
    return (f"{costs.tokens_per_second:.1f}", f"{costs.straggler_us:.0f} us", f"{costs.exposed_us:.0f} us")


def _failed(failed: Sequence[str]) -> list[str]:
    return [f"{len(failed)} requests failed", *(f"  {what}" for what in failed[:5])]


def measure(row: str, args: argparse.Namespace, folder: Path) -> Placements | Turns | Killed:
    """Measure one row."""
    simulated = tuple(args.simulated_us)
    setting = Setting(args.seconds, args.shards, args.streams, args.extra, simulated)
    if row == "placements":
        return placements(setting, args.rounds, folder, args.exponent)
    return turns(setting, args.turns, args.turn_seconds, folder) if row == "turns" else killed(setting, folder)


def main() -> None:
    """Parse arguments, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each measurement, and of the balancer's window")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--extra", type=int, default=4, help="extra copies a shard and layer")
    parser.add_argument("--exponent", type=float, default=1.0, help="of Zipf's law, of the placements' row")
    parser.add_argument("--simulated-us", type=float, nargs=3, default=Setting.simulated_us, metavar="US")
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--turn-seconds", type=float, default=60.0)
    parser.add_argument("--rows", type=chosen, default=list(ROWS), help="names with commas (default: all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    args = parser.parse_args()
    found: dict[str, Any] = {}
    for row in args.rows:
        with tempfile.TemporaryDirectory() as folder:
            figures = measure(row, args, Path(folder))
        print(render(figures), flush=True)
        found[row] = asdict(figures)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
