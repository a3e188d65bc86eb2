"""Prometheus' programs."""

import subprocess

from tests.support import packages


def program(name: str) -> str:
    """The path of `prometheus` or `promtool`; a test that needs one that cannot be had is skipped."""
    return packages.program(name, "prometheus")


def run(*args: str) -> str:
    """Run promtool and return what it says.

    Raises:
        AssertionError: it refused.
    """
    result = subprocess.run([program("promtool"), *args], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout
