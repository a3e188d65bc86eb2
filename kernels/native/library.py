"""The native library: found beside this file, loaded once, called through ctypes."""

import ctypes
import logging
from functools import cache
from pathlib import Path
from typing import Any

from kernels.native.structs import (
    VERSION,
    AttentionCall,
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

LIBRARY = Path(__file__).parent / "libexpertmesh_kernels.so"
INSTRUCTION_SETS = ("avx512bf16", "avx512", "avx2", "neon")


class NativeUnavailableError(RuntimeError):
    """The native kernels cannot run here; the message says why and what to do."""


class Library:
    """The loaded library. Its functions check no pointers: callers check shapes and dtypes first."""

    def __init__(self, handle: ctypes.CDLL) -> None:
        handle.em_isa.restype = ctypes.c_char_p
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
            raise ValueError(f"this CPU does not have {name}: of {', '.join(INSTRUCTION_SETS)} it has others")


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
    """The library.

    Raises:
        NativeUnavailableError: it was not built, was built from other sources, or the CPU lacks what it needs.
    """
    if not LIBRARY.exists():
        raise NativeUnavailableError(
            "the native kernels were not built, as no C++ compiler was there at installation: install g++ and run "
            "'python -m kernels.native.build'"
        )
    try:
        handle = ctypes.CDLL(str(LIBRARY))
    except OSError as error:
        raise NativeUnavailableError(f"the native kernels do not load: {error}") from None
    if handle.em_version() != VERSION:
        raise NativeUnavailableError("the native kernels are of another version: run 'python -m kernels.native.build'")
    loaded = Library(handle)
    if loaded.instruction_set is None:
        raise NativeUnavailableError("this CPU has neither AVX2 with FMA and F16C nor NEON, which native kernels need")
    log.info("native kernels: %s", loaded.instruction_set)
    return loaded


def available() -> bool:
    """Whether `library` returns."""
    try:
        library()
    except NativeUnavailableError:
        return False
    return True
