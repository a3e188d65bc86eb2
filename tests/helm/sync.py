"""Copies of the rules and dashboards inside the chart, which cannot read outside itself.

`python -m tests.helm.sync` makes them (make helm-golden); a test compares.
"""

from pathlib import Path

from tests.helm.chart import CHART, ROOT

SOURCES = {
    "rules": ("deploy/prometheus/rules", "*.yml"),
    "alerts": ("deploy/prometheus/alerts", "*.yml"),
    "dashboards": ("deploy/grafana/dashboards", "*.json"),
}


def wanted() -> dict[Path, bytes]:
    """The copies that the chart should have."""
    return {
        CHART / "files" / kind / file.name: file.read_bytes()
        for kind, (folder, pattern) in SOURCES.items()
        for file in sorted((ROOT / folder).glob(pattern))
    }


def present() -> dict[Path, bytes]:
    """The copies that it has."""
    return {
        file: file.read_bytes() for file in sorted((CHART / "files").rglob("*")) if file.suffix in (".yml", ".json")
    }


def main() -> None:
    """Make both the same."""
    copies = wanted()
    for stale in present().keys() - copies.keys():
        stale.unlink()
    for file, content in copies.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


if __name__ == "__main__":
    main()
