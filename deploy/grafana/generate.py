"""Writes the dashboards as JSON. From the repository's root, with the extra `test` installed:

python -m deploy.grafana.generate [--runbooks https://... [--alerts FOLDER]]
"""

import argparse
import json
import re
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana import alltoall, balance, memory, overview, shards
from deploy.grafana.panel import Board
from deploy.grafana.render import render

BOARDS: tuple[Board, ...] = (overview.BOARD, alltoall.BOARD, balance.BOARD, shards.BOARD, memory.BOARD)
FOLDER = Path(__file__).parent / "dashboards"
ALERTS = Path(__file__).parents[1] / "prometheus" / "alerts"
RUNBOOK_URL = re.compile(r"(runbook_url: )\S*/(?=[\w-]+\.md)")


def as_json(board: Board, runbooks: str = "") -> str:
    """Return a dashboard's file. Without an address it links no runbooks."""
    return json.dumps(render(board, runbooks), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def with_runbooks(alerts: str, runbooks: str) -> str:
    """Return a file of alerts that link their runbooks at an address, instead of naming the path in this repository."""
    return RUNBOOK_URL.sub(lambda match: f"{match[1]}{runbooks.rstrip('/')}/", alerts)


def main() -> None:
    """Write every dashboard, and every file of alerts where asked to."""
    parser = argparse.ArgumentParser(description="Write the Grafana dashboards.")
    parser.add_argument("--runbooks", default="", metavar="URL", help="where the runbooks are published, to link them")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder (default: %(default)s)")
    parser.add_argument("--alerts", type=Path, metavar="FOLDER", help="write the alerts there, linking the same place")
    args = parser.parse_args()
    url = args.runbooks
    if args.alerts and not url:
        parser.error("--alerts needs --runbooks")
    _write(args.out, {f"{board.uid}.json": as_json(board, url) for board in BOARDS})
    if args.alerts:
        _write(args.alerts, {file.name: with_runbooks(file.read_text(), url) for file in ALERTS.glob("*.yml")})


def _write(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
