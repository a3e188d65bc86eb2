"""Random small calls of every entry point of the native library against plain loops in C++ (`driver/`).

As the library was built; with the sanitizers of addresses and undefined behaviour, and AMX tiles emulated; with the
sanitizer of threads; for aarch64 under qemu. EXPERTMESH_DRIVER_SEED takes other calls than CI's.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from kernels.native.build import FLAGS, LIBRARY, SOURCES, compile_objects
from kernels.native.library import available, library
from tests.support.packages import program

HERE = Path(__file__).parent / "driver"
SEED = os.environ.get("EXPERTMESH_DRIVER_SEED", "1")
SANITIZERS = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
THREADS = ["-O1", "-g", "-fsanitize=thread"]
EMULATED = ["-DEM_AMX_EMULATED", "-include", str(HERE / "amx_emulated.h")]
# Leaks are looked for with ptrace, which containers forbid.
ENVIRONMENT = os.environ | {"ASAN_OPTIONS": "detect_leaks=0"}

# The compiler has seconds of work, and the tests of the other process take its core.
pytestmark = pytest.mark.timeout(900)


def linked(work: Path, cxx: str, objects: list[Path], *extra: str) -> str:
    """The driver with the library's objects."""
    made = str(work / "driver")
    sources = [str(path) for path in (*sorted(HERE.glob("*.cpp")), *objects)]
    flags = [*FLAGS, "-O1", "-Wall", "-Wextra", "-Werror", "-I", str(SOURCES), *extra]
    subprocess.run([cxx, *flags, *sources, "-o", made], check=True)
    return made


def run(cases: int, *command: str) -> list[str]:
    """The instruction sets that it ran on."""
    done = subprocess.run([*command, SEED, str(cases)], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout.split()


@pytest.fixture
def gcc() -> str:
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    return "g++"


@pytest.fixture
def as_built(gcc: str, tmp_path: Path) -> str:
    """With the library that this installation has."""
    if not available():
        pytest.skip("the native kernels are not built: there is no C++ compiler")
    return linked(tmp_path, gcc, [LIBRARY])


def test_as_it_was_built(as_built: str):
    assert run(100, as_built) == list(library().instruction_sets)


def test_older_cpus_get_no_instruction_that_they_lack(as_built: str):
    """A CPU without AVX2 loads the library, and has none; one without AVX-512 computes with AVX2."""
    if platform.machine() != "x86_64":
        pytest.skip("all aarch64 CPUs have NEON")
    qemu = program("qemu-x86_64", "qemu-user")
    assert run(1, qemu, "-cpu", "Nehalem", as_built) == []
    assert run(5, qemu, "-cpu", "max,-avx512f", as_built) == ["avx2"]


def test_with_sanitizers(gcc: str, tmp_path: Path):
    """One set, as each is half a minute of compiling: emulated AMX tiles include what AVX-512 does."""
    best = library().instruction_sets[-1] if "avx512bf16" not in library().instruction_sets else "amx"
    objects = compile_objects(tmp_path, None, gcc, [*SANITIZERS, *EMULATED], only=[f"isa_{best}"])
    assert run(25, linked(tmp_path, gcc, objects, *SANITIZERS)) == [best]


def test_threads_do_not_race(gcc: str, tmp_path: Path):
    """What threads share is the same for every instruction set."""
    objects = compile_objects(tmp_path, None, gcc, THREADS, only=("isa_avx2", "isa_neon"))
    driver = linked(tmp_path, gcc, objects, *THREADS)
    start = subprocess.run([driver, SEED, "0"], capture_output=True, text=True)
    if "unexpected memory mapping" in start.stderr:
        pytest.skip("this compiler's thread sanitizer does not know this kernel's memory layout")
    assert run(15, driver)


def test_for_another_architecture(tmp_path: Path):
    if platform.machine() == "aarch64":
        pytest.skip("aarch64 is no other architecture here")
    cxx = program("aarch64-linux-gnu-g++", "g++-aarch64-linux-gnu")
    qemu = program("qemu-aarch64", "qemu-user")
    static = linked(tmp_path, cxx, compile_objects(tmp_path, "aarch64", cxx), "-static")
    assert run(25, qemu, static) == ["neon"]
