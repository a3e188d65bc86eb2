"""Prometheus' programs, installed where that is one command."""

import os
import shutil
import subprocess

import pytest

INSTALL = ("apt-get", "install", "-y", "--no-install-recommends", "prometheus")
INSTALL_SECONDS = 240


def program(name: str) -> str:
    """The path of `prometheus` or `promtool`; a test that needs one that cannot be had is skipped."""
    if shutil.which(name) is None and os.geteuid() == 0 and shutil.which(INSTALL[0]):
        # The package starts a service where it can: ours are started by the tests alone.
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        subprocess.run(INSTALL, env=environment, capture_output=True, timeout=INSTALL_SECONDS, check=False)
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed, and {' '.join(INSTALL)} needs root and a package list")
    return path


def run(*args: str) -> str:
    """Run promtool and return what it says.

    Raises:
        AssertionError: it refused.
    """
    result = subprocess.run([program("promtool"), *args], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout
