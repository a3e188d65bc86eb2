"""Compiles the native library: `python -m kernels.native.build`. Imports nothing but the standard library.

One object for each instruction set, with its own compiler flags, and the rest for the architecture's baseline: only
code that has asked the CPU first may use more. A set whose flags the compiler does not know is left out.
"""

import argparse
import ctypes
import hashlib
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
_AVX2 = ["-mavx2", "-mfma", "-mf16c"]
_AVX512 = [*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]
_AVX512BF16 = [*_AVX512, "-mavx512bf16", "-mavx512vbmi"]
INSTRUCTION_SETS: dict[str, dict[str, list[str]]] = {
    "x86_64": {
        "isa_avx2": _AVX2,
        "isa_avx512": _AVX512,
        "isa_avx512bf16": _AVX512BF16,
        "isa_amx": [*_AVX512BF16, "-mamx-tile", "-mamx-bf16"],
    },
    "aarch64": {"isa_neon": []},
}
COMMON = ["api", "choice", "cpu", "pack", "threads", "workspace"]


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
        extra: more flags for compiler and linker, such as `-fsanitize=address`. Warnings are errors in the tests only:
            a compiler of another version must not fail an installation.

    Raises:
        NoCompilerError: see `compiler`; also for an architecture without kernels.
        subprocess.CalledProcessError: the compiler failed; its output has been printed.
    """
    cxx = cxx or compiler()
    with TemporaryDirectory(dir=library.parent) as directory:
        objects = compile_objects(Path(directory), machine, cxx, extra)
        linked = Path(directory, library.name)
        _run([cxx, "-shared", "-pthread", *extra, *map(str, objects), "-o", str(linked)])
        linked.replace(library)
    return library


def compile_objects(
    directory: Path, machine: str | None, cxx: str, extra: Sequence[str] = (), only: Sequence[str] = ()
) -> list[Path]:
    """Compile into object files in `directory`, side by side; of the instruction sets those in `only`, if it names any.
    The rest as `build`.

    Those with the fewest instructions come first: of an inline function that several have, the linker takes the first.
    """
    sets = {name: flags for name, flags in _sets_of(machine).items() if _accepted(cxx, flags)}
    sets = {name: flags for name, flags in sets.items() if not only or name in only}
    known = [f"-DEM_{name.upper()}" for name in sets]
    common = {name: [*known, f'-DEM_SOURCES="{sources_digest()}"'] for name in COMMON}
    commands = {
        name: [
            cxx,
            *FLAGS,
            "-I",
            str(SOURCES),
            *flags,
            *extra,
            "-c",
            str(_source(name)),
            "-o",
            str(directory / f"{name}.o"),
        ]
        for name, flags in (common | sets).items()
    }
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(_run, commands.values()))
    return [directory / f"{name}.o" for name in commands]


def _source(name: str) -> Path:
    return SOURCES / ("isa" if name.startswith("isa_") else "") / f"{name}.cpp"


def sources_digest() -> str:
    """Of everything that a library is made of: its sources, and this file for the flags."""
    files = [Path(__file__), *sorted(path for path in SOURCES.rglob("*") if path.is_file())]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def digest_of(library: Path) -> str | None:
    """The digest of the sources that a library was built from; None where there is none that says it."""
    try:
        function = ctypes.CDLL(str(library)).em_sources
    except (OSError, AttributeError):
        return None
    function.restype = ctypes.c_char_p
    return str(function().decode())


def build_if_possible(library: Path = LIBRARY) -> str:
    """As `build` where the library is not of today's sources already; returns a line that says how it went.

    Where it fails there is no library afterwards: an old one would hide that.
    """
    if digest_of(library) == sources_digest():
        return f"{library.name} is up to date"
    try:
        return f"built {build(library).name}"
    except (NoCompilerError, subprocess.CalledProcessError) as error:
        library.unlink(missing_ok=True)
        return f"WITHOUT native kernels, which makes layers on a CPU several times slower: {reason(error)}"


def reason(error: NoCompilerError | subprocess.CalledProcessError) -> str:
    """Why there is no library, in one line."""
    if isinstance(error, NoCompilerError):
        return str(error)
    return f"{error.cmd[0]} failed; 'python -m kernels.native.build' shows what it says"


def _sets_of(machine: str | None) -> dict[str, list[str]]:
    machine = machine or platform.machine()
    machine = {"AMD64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
    if machine not in INSTRUCTION_SETS:
        raise NoCompilerError(f"no native kernels for {machine}: there are some for {', '.join(INSTRUCTION_SETS)}")
    return INSTRUCTION_SETS[machine]


def _accepted(cxx: str, flags: Sequence[str]) -> bool:
    command = [cxx, *flags, "-E", "-x", "c++", os.devnull, "-o", os.devnull]
    return subprocess.run(command, capture_output=True).returncode == 0


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, stdout=sys.stderr)


def main() -> int:
    """Build as the command line says and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m kernels.native.build", description="Builds the native kernels.")
    help_text = "build only what changed, and succeed without a compiler too"
    parser.add_argument("--if-possible", action="store_true", help=help_text)
    if parser.parse_args().if_possible:
        print(f"native kernels: {build_if_possible()}")
        return 0
    try:
        print(build())
    except (NoCompilerError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
