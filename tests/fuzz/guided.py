"""The same targets under atheris, which looks for inputs that reach new code. It is optional: pip install atheris."""

import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from tests.fuzz.runner import Fault, Result
from tests.fuzz.target import Target

MARK = "fuzz: fault: "
GROWN = "fuzz: grew by "
OWN = ("experts", "router_service")


def _version() -> str:
    try:
        return f"atheris {version('atheris')}" if find_spec("atheris") else ""
    except PackageNotFoundError:
        return "atheris"


VERSION = _version()


def run(target: Target, seed: int, inputs: int) -> Result:
    """Run a target in a process of its own: atheris ends the one that it runs in."""
    started = time.monotonic()
    flags = ("--guided", "--target", target.name, "--seed", str(seed), "--inputs", str(inputs))
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *flags], capture_output=True, text=True, errors="replace", check=False
    )
    lines = (done.stdout + done.stderr).splitlines()
    faults = [Fault(target.name, -1, b"", line.removeprefix(MARK)) for line in lines if line.startswith(MARK)]
    if done.returncode and not faults:
        faults = [Fault(target.name, -1, b"", "\n".join(["the guided run ended:", *lines[-20:]]))]
    return Result(f"{target.name} guided", inputs, time.monotonic() - started, _grown(lines), 0, tuple(faults))


def fuzz(target: Target, inputs: int, seed: int) -> NoReturn:
    """Read `inputs` inputs that atheris makes, in this process, which ends with it. A fault's input is kept in a file."""
    import atheris
    import psutil

    process = psutil.Process()
    resident = {"at": 0, "read": 0}

    def read(data: bytes) -> None:
        resident["read"] += 1
        if resident["read"] == inputs // 5:
            resident["at"] = process.memory_info().rss
        if resident["read"] == inputs and resident["at"]:
            print(f"{GROWN}{process.memory_info().rss - resident['at']}", flush=True)
        if (error := target.fault(data)) is not None:
            file = _kept(target, data)
            words = f"{type(error).__name__}: {error}"[:300].replace("\n", " ")
            print(f"{MARK}{words}; replay: python -m tests.fuzz --case {target.name}:{file}", flush=True)
            raise error

    with tempfile.TemporaryDirectory() as corpus:
        for number, one in enumerate(target.seeds):
            (Path(corpus) / str(number)).write_bytes(one)
        # libFuzzer takes a seed of 0 for "draw one".
        numbers = (
            f"-runs={inputs}",
            f"-seed={seed % 2**31 or 1}",
            "-max_len=16384",
            "-rss_limit_mb=4096",
            "-timeout=60",
        )
        atheris.Setup([sys.argv[0], *numbers, "-artifact_prefix=" + tempfile.gettempdir() + "/", corpus], read)
        atheris.Fuzz()
    sys.exit(0)


def _kept(target: Target, data: bytes) -> str:
    with tempfile.NamedTemporaryFile(prefix=f"fuzz-{target.name}-", delete=False) as file:
        file.write(data)
    return file.name


def _grown(lines: list[str]) -> int:
    return next((int(line.removeprefix(GROWN)) for line in lines if line.startswith(GROWN)), 0)
