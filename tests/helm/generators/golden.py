"""Golden renders: `python -m tests.helm.generators.golden` writes them anew (make helm-golden); a test compares."""

import re
from pathlib import Path

from tests.helm.chart import CHART, template

GOLDEN = Path(__file__).parent.parent / "golden"


def cases() -> dict[str, Path]:
    """Values files by name: one a feature, and the presets."""
    ci = {file.stem.removesuffix("-values"): file for file in sorted((CHART / "ci").glob("*-values.yaml"))}
    return ci | {f"preset-{file.stem}": file for file in sorted((CHART / "presets").glob("*.yaml"))}


def render(file: Path) -> str:
    """What the chart makes of a values file, but what it draws at random, and the rules and dashboards."""
    done = template(file)
    assert done.returncode == 0, done.stderr
    text = re.sub(r'^  secret: "[^"]+"$', '  secret: "(drawn)"', done.stdout, flags=re.MULTILINE)
    text = re.sub(
        r'^  (first-token): "[^"]+"\n  (\S+): "[^"]+"$',
        r'  \1: "(drawn)"\n  \2: "(its hash)"',
        text,
        flags=re.MULTILINE,
    )
    text = re.sub(r"^(  groups:\n)(?:  .*\n|\n)+", r"\1    (a copy)\n", text, flags=re.MULTILINE)
    return re.sub(r"^(  \S+\.json: \|\n)(?:    .*\n|\n)+", r"\1    (a copy)\n", text, flags=re.MULTILINE)


def main() -> None:
    """Write all golden files."""
    GOLDEN.mkdir(exist_ok=True)
    for stale in GOLDEN.glob("*.yaml"):
        stale.unlink()
    for name, file in cases().items():
        (GOLDEN / f"{name}.yaml").write_text(render(file))


if __name__ == "__main__":
    main()
