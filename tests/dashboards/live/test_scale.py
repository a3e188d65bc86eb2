"""The rewriting of durations that the live test rests on."""

import pytest

from tests.dashboards.live.scale import FACTOR, milliseconds, scaled, scaled_expression, scaled_rules
from tests.dashboards.rules import RULE_FILES


@pytest.mark.parametrize(
    ("duration", "shorter"),
    [("15s", "1s"), ("1m", "4s"), ("5m", "20s"), ("1h", "4m"), ("1d", "96m"), ("1h30m", "6m"), ("10s", "666ms")],
)
def test_a_duration_is_divided(duration: str, shorter: str) -> None:
    assert scaled(duration, 15) == shorter


@pytest.mark.parametrize(
    ("expr", "shorter"),
    [
        ("rate(a[5m])", "rate(a[20s])"),
        ("avg_over_time(a:rate5m[1h] offset 10m) > 5", "avg_over_time(a:rate5m[4m] offset 40s) > 5"),
        ("max_over_time(rate(a[1m])[30m:1m])", "max_over_time(rate(a[4s])[2m:4s])"),
        ("a offset 1h", "a offset 4m"),
        ("a{b=\"[5m]\", c='offset 1h'}[5m]", "a{b=\"[5m]\", c='offset 1h'}[20s]"),
        ("model:x:ratio_rate5m > 14.4 * 0.001", "model:x:ratio_rate5m > 14.4 * 0.001"),
    ],
)
def test_an_expressions_windows_are_divided_and_nothing_else(expr: str, shorter: str) -> None:
    assert scaled_expression(expr, 15) == shorter


def test_no_window_of_ours_becomes_shorter_than_a_few_scrapes() -> None:
    scrape = milliseconds(scaled("15s"))
    for path in RULE_FILES:
        for group in scaled_rules(path)["groups"]:
            for rule in group["rules"]:
                assert milliseconds(rule.get("for", scaled("15s"))) >= scrape
    assert milliseconds("5m") / FACTOR >= 4 * scrape
