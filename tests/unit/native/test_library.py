"""The native library's start: which instruction set is taken, what is said where that cannot be the best one."""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

from kernels import select
from kernels.native import build
from kernels.native.library import VARIABLE, Library, NativeUnavailableError, available, choose, library
from kernels.native.self_check import wrong_product
from kernels.native.structs import LinearCall

# gcc 12 warns of its own AVX-512 headers; clang has no such flag.
STRICT = [
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unknown-warning-option",
    "-Wno-maybe-uninitialized",
    "-Wno-uninitialized",
    "-O1",
]
native = pytest.mark.skipif(not available(), reason="the native kernels are not built: there is no C++ compiler")


class Faulty:
    """The library with instruction sets of other names, some of which add one to the first element of a product."""

    def __init__(self, *sets: str, wrong: tuple[str, ...] = ()) -> None:
        self.instruction_sets = sets
        self.instruction_set = ""
        self._wrong = wrong
        self.pack = library().pack

    def select(self, name: str) -> None:
        self.instruction_set = name

    def linear(self, call: LinearCall) -> int:
        status: int = library().linear(call)
        if self.instruction_set in self._wrong:
            ctypes.c_float.from_address(call.y).value += 1
        return status


def chosen(faulty: Faulty, wanted: str = "") -> str:
    choose(cast(Library, faulty), wanted)
    return faulty.instruction_set


@native
def test_every_instruction_set_of_this_cpu_passes_its_check():
    try:
        for name in library().instruction_sets:
            library().select(name)
            assert wrong_product(library()) is None
    finally:
        choose(library())


@native
def test_the_best_one_is_taken(caplog: pytest.LogCaptureFixture):
    assert chosen(Faulty("best", "next")) == "best"
    assert not caplog.records


@native
def test_wrong_products_lead_to_the_next_one(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        assert chosen(Faulty("best", "next", "last", wrong=("best", "next"))) == "last"
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "native kernels: products with best are wrong (f32, 1 rows), so next is taken",
        "native kernels: products with next are wrong (f32, 1 rows), so last is taken",
    ]


@native
def test_without_a_right_one_there_is_no_library():
    with pytest.raises(NativeUnavailableError, match=r"compute wrongly with only \(f32, 1 rows\)"):
        chosen(Faulty("only", wrong=("only",)))


@native
def test_one_can_be_forced():
    assert chosen(Faulty("best", "next"), "next") == "next"
    with pytest.raises(ValueError, match=f"{VARIABLE} is 'best2', it must be one of best, next on this CPU"):
        chosen(Faulty("best", "next"), "best2")
    with pytest.raises(NativeUnavailableError, match="with next"):
        chosen(Faulty("best", "next", wrong=("next",)), "next")


def said(code: str, **environment: str) -> str:
    """What a process of its own prints: a library is loaded once."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | environment)
    return done.stdout + done.stderr


@native
def test_a_process_logs_what_it_computes_with():
    code = "import logging; logging.basicConfig(level='INFO', format='%(levelname)s %(message)s'); "
    line = said(code + "from kernels.select import ops; ops('auto'); ops('native')")
    assert line == f"INFO native kernels: {library().instruction_set}\n"


@native
def test_the_variable_chooses():
    code = "from kernels.native.library import library; print(library().instruction_set)"
    last = library().instruction_sets[-1]
    assert said(code, **{VARIABLE: last}) == f"{last}\n"
    assert f"ValueError: {VARIABLE} is 'sse9', it must be one of " in said(code, **{VARIABLE: "sse9"})


MISSING = "from kernels.native import library; library.LIBRARY = library.LIBRARY.with_name('none.so'); "


def test_a_start_without_it_says_what_that_costs():
    line = said(MISSING + "from kernels.select import notice; print(notice('auto', 'cpu'))")
    assert line.startswith("warning: the native kernels were not built")
    assert "'python -m kernels.native.build'" in line
    assert select.TORCH_COST in line
    assert line.count("\n") == 1


def test_processes_log_it_once():
    line = said(MISSING + "from kernels.select import ops; print(ops('auto').backend, ops('auto').backend)")
    assert line.count("not built") == 1
    assert "cpu cpu\n" in line


def test_a_native_backend_without_it_is_refused():
    line = said(MISSING + "from kernels.select import notice; notice('native', 'cpu')")
    assert "ValueError: experts.backend is native, but the native kernels were not built" in line


def test_a_library_of_another_version_is_refused():
    code = (
        "import numpy._core._multiarray_umath as other; from kernels.native import library; from pathlib import Path; "
    )
    code += "library.LIBRARY = Path(other.__file__); library.library()"
    assert "NativeUnavailableError: the native kernels are of another version: run 'python -m" in said(code)


@native
def test_a_start_with_it_says_which():
    assert select.notice("auto", "cpu") == f"native kernels compute, with {library().instruction_set}"
    assert select.notice("cpu", "cpu") == select.notice("auto", "cuda") == ""


@native
def test_other_sources_are_said(tmp_path: Path):
    other = tmp_path / "other.h"
    other.write_text("// not what it was built from\n")
    code = "from kernels.native import build; from pathlib import Path; from kernels.native import library; "
    code += f"build.SOURCES = Path({str(tmp_path)!r}); library.library(); library.library()"
    assert said(code).count("were built from other sources") == 1


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)


@pytest.mark.usefixtures("no_compiler")
def test_no_compiler_is_one_line(tmp_path: Path):
    old = tmp_path / "lib.so"
    old.write_bytes(b"of other sources")
    line = build.build_if_possible(old)
    assert line.startswith("WITHOUT native kernels")
    assert line.endswith("no C++ compiler found: install g++ (Debian: apt-get install g++) or set CXX")
    assert not old.exists()


def test_a_compiler_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("CXX", "false")
    line = build.build_if_possible(tmp_path / "lib.so")
    assert line.endswith("false failed; 'python -m kernels.native.build' shows what it says")


def test_another_architecture_is_refused(tmp_path: Path):
    with pytest.raises(
        build.NoCompilerError, match="no native kernels for riscv64: there are some for x86_64, aarch64"
    ):
        build.build(tmp_path / "lib.so", machine="riscv64", cxx="g++")


@pytest.mark.parametrize("cxx", ["g++", "clang++"])
def test_it_compiles_without_a_warning(cxx: str, tmp_path: Path):
    if shutil.which(cxx) is None:
        pytest.skip(f"{cxx} is not installed")
    # Optimized code is what the sanitizers' test compiles; here the compiler's eyes are enough.
    build.compile_objects(tmp_path, None, cxx, [*STRICT, "-fsyntax-only"])
