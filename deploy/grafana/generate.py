"""Writes the dashboards as JSON. From the repository's root, with the extra `test` installed:

python -m deploy.grafana.generate [--runbooks https://...]
"""

import argparse
import json
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana import alltoall, balance, memory, overview, shards
from deploy.grafana.panel import Board
from deploy.grafana.render import render

BOARDS: tuple[Board, ...] = (overview.BOARD, alltoall.BOARD, balance.BOARD, shards.BOARD, memory.BOARD)
FOLDER = Path(__file__).parent / "dashboards"
# A name that is reserved for examples: the address is the user's, here or in each dashboard's text box.
RUNBOOKS = "https://git.example.com/expertmesh/deploy/runbooks"


def as_json(board: Board, runbooks: str = RUNBOOKS) -> str:
    """Return a dashboard's file."""
    return json.dumps(render(board, runbooks), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def main() -> None:
    """Write every dashboard."""
    parser = argparse.ArgumentParser(description="Write the Grafana dashboards.")
    parser.add_argument("--runbooks", default=RUNBOOKS, help="where the runbooks are published (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder (default: %(default)s)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for board in BOARDS:
        (args.out / f"{board.uid}.json").write_text(as_json(board, args.runbooks), encoding="utf-8")


if __name__ == "__main__":
    main()
