"""Copies of the rules and dashboards inside the chart, which cannot read outside itself.

In place of what a release decides, its namespace and where runbooks are published, they have words that the templates
replace. `python -m tests.helm.generators.sync` makes them (make helm-golden); a test compares.
"""

import re
from pathlib import Path

from deploy.grafana.generate import BOARDS, as_json, with_runbooks
from tests.helm.chart import CHART, ROOT

NAMESPACE = 'namespace="RELEASE_NAMESPACE"'
RUNBOOKS = "RUNBOOKS_URL"
# The name of a series and, if it has any, the bracket that opens its matchers.
SELECTOR = re.compile(r"\b(up(?=\{)|(?:[a-z_]+:)?expertmesh_\w+(?::\w+)?)(\{)?")
# Lines that name series and are no part of a rule's expression. Annotations ask for their alert's namespace themselves.
OTHERS = ("#", "- record:", "{{")


def wanted() -> dict[Path, bytes]:
    """The copies that the chart should have."""
    files = CHART / "files"
    rules = {
        files / kind / file.name: chart_rules(file.read_text()).encode()
        for kind in ("rules", "alerts")
        for file in sorted((ROOT / "deploy" / "prometheus" / kind).glob("*.yml"))
    }
    return rules | {files / "dashboards" / f"{board.uid}.json": as_json(board, RUNBOOKS).encode() for board in BOARDS}


def chart_rules(text: str) -> str:
    """A file of rules with a place for the namespace in each selector, and for the address of each runbook."""
    lines = with_runbooks(text, RUNBOOKS).splitlines(keepends=True)
    return "".join(line if line.strip().startswith(OTHERS) else SELECTOR.sub(_placed, line) for line in lines)


def _placed(match: re.Match[str]) -> str:
    return f"{match[1]}{{{NAMESPACE}{', ' if match[2] else '}'}"


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
