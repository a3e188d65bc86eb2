"""The same targets under atheris, which looks for inputs that reach new code. It is optional: pip install atheris."""

import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from tests.fuzz.runner import MEBI, Fault, Result, resident_bytes
from tests.fuzz.target import Target

MARK = "fuzz: fault: "
GROWN = "fuzz: grew by "
OWN = ("experts", "router_service")
# It keeps the inputs that reached new code.
MOST_GUIDED_GROWTH_BYTES = 96 * MEBI


def _version() -> str:
    try:
        return f"atheris {version('atheris')}" if find_spec("atheris") else ""
    except PackageNotFoundError:
        return "atheris"


VERSION = _version()


def run(target: Target, seed: int, inputs: int) -> Result:
    """Run a target in a process of its own: atheris ends the one that it runs in."""
    started = time.monotonic()
    command = [sys.executable, "-m", "tests.fuzz.guided", target.name, str(inputs), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    lines = (done.stdout + done.stderr).splitlines()
    faults = [Fault(target.name, -1, b"", line.removeprefix(MARK)) for line in lines if line.startswith(MARK)]
    if done.returncode and not faults:
        faults = [Fault(target.name, -1, b"", "\n".join(["the guided run ended:", *lines[-20:]]))]
    grown = next((int(line.removeprefix(GROWN)) for line in lines if line.startswith(GROWN)), 0)
    if grown > MOST_GUIDED_GROWTH_BYTES:
        faults.append(Fault(target.name, -1, b"", f"the process grew by {grown} bytes"))
    return Result(f"{target.name} guided", inputs, time.monotonic() - started, grown, 0, tuple(faults))


class Reader:
    """Reads what atheris makes, tells of the first fault, whose input it keeps in a file, and of memory at the end."""

    def __init__(self, target: Target, inputs: int) -> None:
        self._target = target
        self._inputs = inputs
        self._read = 0
        self._at_first = 0

    def __call__(self, data: bytes) -> None:
        self._read += 1
        if self._read == self._inputs // 5:
            self._at_first = resident_bytes()
        if (error := self._target.fault(data)) is not None:
            words = f"{type(error).__name__}: {error}"[:300].replace("\n", " ")
            replay = f"replay: python -m tests.fuzz --case {self._target.name}:{self._kept(data)}"
            print(f"{MARK}{words}; {replay}", flush=True)
            raise error
        if self._read == self._inputs:
            print(f"{GROWN}{resident_bytes() - self._at_first}", flush=True)

    def _kept(self, data: bytes) -> str:
        with tempfile.NamedTemporaryFile(prefix=f"fuzz-{self._target.name}-", delete=False) as file:
            file.write(data)
        return file.name


def main(name: str, inputs: int, seed: int) -> None:
    """Fuzz one target in this process, which ends with it."""
    import atheris

    with atheris.instrument_imports(include=list(OWN)):
        from tests.fuzz.targets import BY_NAME
    target = BY_NAME[name]
    with tempfile.TemporaryDirectory() as corpus:
        for number, one in enumerate(target.seeds):
            (Path(corpus) / str(number)).write_bytes(one)
        # libFuzzer takes a seed of 0 for "draw one".
        flags = (f"-runs={inputs}", f"-seed={seed % 2**31 or 1}", "-max_len=16384", "-rss_limit_mb=4096", "-timeout=60")
        atheris.Setup([sys.argv[0], *flags, f"-artifact_prefix={corpus}/", corpus], Reader(target, inputs))
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
