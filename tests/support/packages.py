"""Programs of Debian's packages, installed where that is one command."""

import os
import shutil
import subprocess
from contextlib import suppress

import pytest

# The lock: tests that run side by side may want a package at the same time.
INSTALL = ("apt-get", "install", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=200")
INSTALL_SECONDS = 240


def program(name: str, package: str) -> str:
    """The path of a program; a test that needs one that cannot be had is skipped."""
    if shutil.which(name) is None and os.geteuid() == 0 and shutil.which(INSTALL[0]):
        # Some packages start a service where they can: ours are started by the tests alone.
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        with suppress(subprocess.TimeoutExpired):
            subprocess.run((*INSTALL, package), env=environment, capture_output=True, timeout=INSTALL_SECONDS)
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed, and apt-get install {package} needs root and a package list")
    return path
