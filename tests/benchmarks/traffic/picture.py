"""The figures as a picture: a bar for each, as a share of its target, drawn by Chromium."""

import shutil
from collections.abc import Sequence
from html import escape
from pathlib import Path

from tests.benchmarks.traffic.figure import Figure, number

WIDTH, ROOM = 1100, 2.0  # pixels; the bars end at so many times the target
STYLE = """
body { font: 14px system-ui, sans-serif; margin: 24px; color: #1d2430; background: #fff; }
h1 { font-size: 18px; margin: 0 0 4px; } p { margin: 0 0 16px; color: #5a6472; }
table { border-collapse: collapse; width: 100%; } td { padding: 5px 8px 5px 0; vertical-align: middle; }
.name { font-weight: 600; } .number { text-align: right; white-space: nowrap; } .bar { width: 300px; padding-right: 0; }
.track { position: relative; height: 14px; background: #eef1f5; }
.fill { height: 14px; } .met { background: #2a7fba; } .missed { background: #c2410c; }
.target { position: absolute; top: -3px; height: 20px; width: 2px; left: 50%; background: #1d2430; }
"""


def page(figures: Sequence[Figure], heading: str, title: str = "bench_traffic") -> str:
    """The picture as HTML."""
    rows = "\n".join(_row(figure) for figure in figures)
    return (
        f"<!doctype html><meta charset='utf-8'><style>{STYLE}</style><h1>{escape(title)}</h1>"
        f"<p>{escape(heading)}. The line is the target.</p><table>{rows}</table>"
    )


def draw(figures: Sequence[Figure], heading: str, path: Path, title: str = "bench_traffic") -> None:
    """Write the picture as PNG. Chromium is the installed one, else Playwright's own.

    Raises:
        playwright.sync_api.Error: there is none.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        window = browser.new_page(viewport={"width": WIDTH, "height": 100})
        window.set_content(page(figures, heading, title))
        window.screenshot(path=path, full_page=True)
        browser.close()


def _row(figure: Figure) -> str:
    name, what = f"<td class='name'>{escape(figure.row)}</td>", f"<td>{escape(figure.what)}</td>"
    sign = "&ge;" if figure.at_least else "&le;"
    if figure.value is None:
        return f"<tr>{name}{what}<td colspan='3'>not measured</td></tr>"
    share = 100 * min(figure.value / figure.target, ROOM) / ROOM
    fill = f"<div class='fill {'met' if figure.met else 'missed'}' style='width: {share:.1f}%'></div>"
    return (
        f"<tr>{name}{what}<td class='number'>{number(figure.value)}</td>"
        f"<td class='number'>{sign} {number(figure.target)}</td>"
        f"<td class='bar'><div class='track'>{fill}<div class='target'></div></div></td></tr>"
    )
