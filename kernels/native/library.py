"""The native library: found beside this file, loaded once, called through ctypes."""

import ctypes
import logging
import os
from functools import cache
from typing import Any

from kernels.native.build import LIBRARY, SOURCES, digest_of, sources_digest
from kernels.native.self_check import wrong_product
from kernels.native.structs import (
    VERSION,
    AttentionCall,
    ChooseCall,
    ExpertsCall,
    GatedCall,
    HeadsCall,
    LinearCall,
    NormCall,
    PackCall,
    SigmoidCall,
    Status,
    TakeCall,
    TurnCall,
)

log = logging.getLogger(__name__)

# Best first. AMX has never run on a CPU: its tests emulate the tiles.
INSTRUCTION_SETS = ("amx", "avx512bf16", "avx512", "avx2", "neon")
# Names the one to take, for measurements and where the best one errs.
VARIABLE = "EXPERTMESH_NATIVE_ISA"
REBUILD = "run 'python -m kernels.native.build'"


class NativeUnavailableError(RuntimeError):
    """The native kernels cannot run here; the message says why and what to do."""


class Library:
    """The loaded library. Its functions check no pointers: callers check shapes and dtypes first."""

    def __init__(self, handle: ctypes.CDLL) -> None:
        handle.em_isa.restype = ctypes.c_char_p
        self._has = handle.em_has
        self._declare(handle.em_pack, PackCall, None)
        self._declare(handle.em_take, TakeCall, None)
        self._declare(handle.em_linear, LinearCall, ctypes.c_int32)
        self._declare(handle.em_experts, ExpertsCall, ctypes.c_int32)
        self._declare(handle.em_heads, HeadsCall, ctypes.c_int32)
        self._declare(handle.em_attention, AttentionCall, ctypes.c_int32)
        self._declare(handle.em_norm, NormCall, ctypes.c_int32)
        self._declare(handle.em_gated, GatedCall, ctypes.c_int32)
        self._declare(handle.em_turn, TurnCall, ctypes.c_int32)
        self._declare(handle.em_sigmoid, SigmoidCall, ctypes.c_int32)
        self._declare(handle.em_choose, ChooseCall, ctypes.c_int32)
        self._handle = handle
        self.pack = handle.em_pack
        self.take = handle.em_take
        self.linear = handle.em_linear
        self.experts = handle.em_experts
        self.heads = handle.em_heads
        self.attention = handle.em_attention
        self.norm = handle.em_norm
        self.gated = handle.em_gated
        self.turn = handle.em_turn
        self.sigmoid = handle.em_sigmoid
        self.choose = handle.em_choose

    @staticmethod
    def _declare(function: Any, call: type[ctypes.Structure], result: Any) -> None:
        function.argtypes = [ctypes.POINTER(call)]
        function.restype = result

    @property
    def instruction_set(self) -> str | None:
        """Which instruction set computes; None where the CPU has none of `INSTRUCTION_SETS`."""
        name = self._handle.em_isa()
        return None if name is None else name.decode()

    def select(self, name: str) -> None:
        """Compute with another instruction set from now on, not while a call runs. ValueError if the CPU lacks it."""
        if self._handle.em_select(name.encode()):
            raise ValueError(f"no instruction set {name} here, only {', '.join(self.instruction_sets)}")

    @property
    def instruction_sets(self) -> tuple[str, ...]:
        """Those that the CPU has and the compiler knew, best first."""
        return tuple(name for name in INSTRUCTION_SETS if self._has(name.encode()))


def check(status: int) -> None:
    """Raise what a call's status means: MemoryError, ValueError for an expert, IndexError for a token out of range."""
    if status == Status.OK:
        return
    if status == Status.NO_MEMORY:
        raise MemoryError("no memory for the intermediate results of a layer")
    if status == Status.BAD_EXPERT:
        raise ValueError("an expert id lies outside the layer's experts")
    raise IndexError("a row's token lies outside the tokens of the call")


@cache
def library() -> Library:
    """The library, computing with the best instruction set that passes its check, or the one in `VARIABLE`.

    Raises:
        NativeUnavailableError: it was not built, is of another version, the CPU lacks what it needs, or what it
            computes is wrong. One of other sources with the same structs is used, with a warning.
        ValueError: `VARIABLE` names an instruction set that is not here.
    """
    try:
        loaded = Library(_handle())
    except AttributeError:  # it lacks a function
        raise NativeUnavailableError(f"the native kernels are of another version: {REBUILD}") from None
    if not loaded.instruction_sets:
        raise NativeUnavailableError("this CPU has neither AVX2 with FMA and F16C nor NEON, which native kernels need")
    choose(loaded, os.environ.get(VARIABLE, ""))
    log.info("native kernels: %s", loaded.instruction_set)
    return loaded


def choose(loaded: Library, wanted: str = "") -> None:
    """Select the best instruction set whose products are right, or `wanted` alone. Raises as `library`."""
    if wanted and wanted not in loaded.instruction_sets:
        raise ValueError(
            f"{VARIABLE} is {wanted!r}, it must be one of {', '.join(loaded.instruction_sets)} on this CPU"
        )
    candidates = (wanted,) if wanted else loaded.instruction_sets
    for name, following in zip(candidates, (*candidates[1:], None)):
        loaded.select(name)
        wrong = wrong_product(loaded)
        if wrong is None:
            return
        if following is not None:
            log.warning("native kernels: products with %s are wrong (%s), so %s is taken", name, wrong, following)
    raise NativeUnavailableError(f"the native kernels compute wrongly with {name} ({wrong})")


def _handle() -> ctypes.CDLL:
    if not LIBRARY.exists():
        raise NativeUnavailableError(
            f"the native kernels were not built at installation: install a C++ compiler (g++) and {REBUILD}"
        )
    try:
        handle = ctypes.CDLL(str(LIBRARY))
    except OSError as error:
        raise NativeUnavailableError(f"the native kernels do not load: {error}") from None
    if handle.em_version() != VERSION:
        raise NativeUnavailableError(f"the native kernels are of another version: {REBUILD}")
    if SOURCES.is_dir() and digest_of(LIBRARY) != sources_digest():
        log.warning("the native kernels were built from other sources than those in %s: %s", SOURCES, REBUILD)
    return handle


def available() -> bool:
    """Whether `library` returns."""
    try:
        library()
    except NativeUnavailableError:
        return False
    return True
