"""Compiles the native library: `python -m kernels.native.build`. Imports nothing but the standard library.

One object for each instruction set, with its own compiler flags, and the rest for the architecture's baseline: only
code that has asked the CPU first may use more.
"""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

SOURCES = Path(__file__).parent / "src"
LIBRARY = Path(__file__).parent / "libexpertmesh_kernels.so"

# No contraction: only products that are written as fused are, so that every tile rounds alike.
FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-pthread"]
# gcc 12 warns of its own AVX-512 headers.
WARNINGS = ["-Wall", "-Wextra", "-Werror", "-Wno-maybe-uninitialized", "-Wno-uninitialized"]
_AVX2 = ["-mavx2", "-mfma", "-mf16c"]
_AVX512 = [*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]
INSTRUCTION_SETS: dict[str, dict[str, list[str]]] = {
    "x86_64": {
        "isa_avx2": _AVX2,
        "isa_avx512": _AVX512,
        "isa_avx512bf16": [*_AVX512, "-mavx512bf16", "-mavx512vbmi"],
    },
    "aarch64": {"isa_neon": []},
}
COMMON = ["api", "pack", "threads", "workspace"]


class NoCompilerError(RuntimeError):
    """There is no C++ compiler, or none that compiles for this architecture."""


def compiler() -> str:
    """The C++ compiler: $CXX, else g++, c++ or clang++.

    Raises:
        NoCompilerError: none is there.
    """
    for name in filter(None, (os.environ.get("CXX"), "g++", "c++", "clang++")):
        if found := shutil.which(name):
            return found
    raise NoCompilerError("no C++ compiler found: install g++ (Debian: apt-get install g++) or set CXX")


def build(
    library: Path = LIBRARY, machine: str | None = None, cxx: str | None = None, extra: Sequence[str] = ()
) -> Path:
    """Compile into `library`, which is replaced as a whole, and return it.

    Args:
        machine: the architecture, as `platform.machine()` names it; ours by default.
        cxx: the compiler, for another architecture or with other flags than the default.
        extra: more flags for compiler and linker, such as `-fsanitize=address`.

    Raises:
        NoCompilerError: see `compiler`; also for an architecture without kernels.
        subprocess.CalledProcessError: the compiler failed; its output has been printed.
    """
    machine = {"AMD64": "x86_64", "arm64": "aarch64"}.get(machine or platform.machine(), machine or platform.machine())
    if machine not in INSTRUCTION_SETS:
        raise NoCompilerError(f"no native kernels for {machine}: there are some for {', '.join(INSTRUCTION_SETS)}")
    cxx = cxx or compiler()
    flags_of = {name: list[str]() for name in COMMON} | INSTRUCTION_SETS[machine]
    with TemporaryDirectory(dir=library.parent) as directory:
        objects = {name: Path(directory, f"{name}.o") for name in flags_of}
        commands = [
            [cxx, *FLAGS, *WARNINGS, *flags_of[name], *extra, "-c", str(SOURCES / f"{name}.cpp"), "-o", str(made)]
            for name, made in objects.items()
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(_run, commands))
        linked = Path(directory, library.name)
        _run([cxx, "-shared", "-pthread", *extra, *map(str, objects.values()), "-o", str(linked)])
        linked.replace(library)
    return library


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, stdout=sys.stderr)


if __name__ == "__main__":
    print(build())
