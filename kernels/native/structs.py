"""The structs of the C interface; each stands beside its C++ twin in `src/`, which documents the fields."""

import ctypes
from ctypes import c_float, c_int32, c_int64, c_void_p
from enum import IntEnum

# Changes with every change of a struct or of the layout of panels: a library built from other sources is refused.
VERSION = 4
PANEL, HALF = 32, 16


class Format(IntEnum):
    """`Format` of `matrix.h`."""

    F32 = 0
    BF16 = 1
    F16 = 2
    FP8 = 3
    INT8 = 4
    FP4 = 5
    INT4 = 6


class Scale(IntEnum):
    """`Scale` of `matrix.h`."""

    NONE = 0
    F32 = 1
    BF16 = 2
    F16 = 3
    E8M0 = 4
    E4M3 = 5
    HALVES = 6


class Status(IntEnum):
    """`Status` of `calls.h`."""

    OK = 0
    NO_MEMORY = 1
    BAD_EXPERT = 2
    BAD_TOKEN = 3


class MatrixStruct(ctypes.Structure):
    """`Matrix` of `matrix.h`."""

    _fields_ = [
        ("format", c_int32),
        ("scale", c_int32),
        ("outputs", c_int64),
        ("inputs", c_int64),
        ("panels", c_int64),
        ("group", c_int64),
        ("values", c_void_p),
        ("scales", c_void_p),
        ("zeros", c_void_p),
        ("outer", c_void_p),
        ("places", c_void_p),
    ]


class PackCall(ctypes.Structure):
    """`PackCall` of `pack.h`."""

    _fields_ = [
        ("source", c_void_p),
        ("panels", c_void_p),
        ("rows", c_int64),
        ("first_row", c_int64),
        ("inputs", c_int64),
        ("row_bytes", c_int64),
        ("format", c_int32),
        ("half", c_int32),
    ]


class TakeCall(ctypes.Structure):
    """`TakeCall` of `pack.h`."""

    _fields_ = [
        ("w", ctypes.POINTER(MatrixStruct)),
        ("numbers", c_void_p),
        ("out", c_void_p),
        ("count", c_int64),
        ("gate_up", c_int32),
    ]


class LinearCall(ctypes.Structure):
    """`LinearCall` of `calls.h`."""

    _fields_ = [
        ("w", ctypes.POINTER(MatrixStruct)),
        ("x", c_void_p),
        ("bias", c_void_p),
        ("y", c_void_p),
        ("rows", c_int64),
        ("x_stride", c_int64),
        ("y_stride", c_int64),
        ("x_dtype", c_int32),
        ("y_dtype", c_int32),
        ("threads", c_int32),
    ]


class ExpertsStruct(ctypes.Structure):
    """`Experts` of `calls.h`."""

    _fields_ = [
        ("gate_up", ctypes.POINTER(MatrixStruct)),
        ("down", ctypes.POINTER(MatrixStruct)),
        ("gate_up_bias", c_void_p),
        ("down_bias", c_void_p),
        ("count", c_int64),
        ("hidden", c_int64),
        ("ffn", c_int64),
        ("activation", c_int32),
        ("weight_inputs", c_int32),
        ("alpha", c_float),
        ("limit", c_float),
    ]


class ExpertsCall(ctypes.Structure):
    """`ExpertsCall` of `calls.h`."""

    _fields_ = [
        ("experts", ctypes.POINTER(ExpertsStruct)),
        ("x", c_void_p),
        ("token_of_row", c_void_p),
        ("expert_of_row", c_void_p),
        ("weight_of_row", c_void_p),
        ("y", c_void_p),
        ("tokens", c_int64),
        ("rows", c_int64),
        ("x_stride", c_int64),
        ("x_dtype", c_int32),
        ("threads", c_int32),
        ("by_row", c_int32),
    ]


class HeadsCall(ctypes.Structure):
    """`HeadsCall` of `calls.h`."""

    _fields_ = [
        ("w", ctypes.POINTER(MatrixStruct)),
        ("x", c_void_p),
        ("y", c_void_p),
        ("rows", c_int64),
        ("heads", c_int64),
        ("x_row", c_int64),
        ("x_head", c_int64),
        ("y_row", c_int64),
        ("y_head", c_int64),
        ("dtype", c_int32),
        ("threads", c_int32),
    ]


class AttentionCall(ctypes.Structure):
    """`AttentionCall` of `calls.h`."""

    _fields_ = [
        ("q", c_void_p),
        ("keys", c_void_p),
        ("values", c_void_p),
        ("sinks", c_void_p),
        ("out", c_void_p),
        ("slots", c_void_p),
        ("slot_start", c_void_p),
        ("row_start", c_void_p),
        ("since", c_void_p),
        ("first", c_void_p),
        ("segments", c_int64),
        ("heads", c_int64),
        ("kv_heads", c_int64),
        ("key_size", c_int64),
        ("value_size", c_int64),
        ("q_row", c_int64),
        ("q_head", c_int64),
        ("key_slot", c_int64),
        ("key_head", c_int64),
        ("value_slot", c_int64),
        ("value_head", c_int64),
        ("scale", c_float),
        ("dtype", c_int32),
        ("threads", c_int32),
    ]


class NormCall(ctypes.Structure):
    """`NormCall` of `calls.h`."""

    _fields_ = [
        ("x", c_void_p),
        ("weight", c_void_p),
        ("y", c_void_p),
        ("rows", c_int64),
        ("size", c_int64),
        ("x_row", c_int64),
        ("eps", c_float),
        ("dtype", c_int32),
        ("round_last", c_int32),
        ("threads", c_int32),
    ]


class GatedCall(ctypes.Structure):
    """`GatedCall` of `calls.h`."""

    _fields_ = [
        ("x", c_void_p),
        ("y", c_void_p),
        ("rows", c_int64),
        ("size", c_int64),
        ("x_row", c_int64),
        ("dtype", c_int32),
        ("threads", c_int32),
    ]


class TurnCall(ctypes.Structure):
    """`TurnCall` of `calls.h`."""

    _fields_ = [
        ("x", c_void_p),
        ("weight", c_void_p),
        ("cosines", c_void_p),
        ("sines", c_void_p),
        ("y", c_void_p),
        ("rows", c_int64),
        ("heads", c_int64),
        ("size", c_int64),
        ("x_row", c_int64),
        ("x_head", c_int64),
        ("eps", c_float),
        ("dtype", c_int32),
        ("angle_dtype", c_int32),
        ("interleaved", c_int32),
        ("threads", c_int32),
    ]


class SigmoidCall(ctypes.Structure):
    """`SigmoidCall` of `calls.h`."""

    _fields_ = [("x", c_void_p), ("y", c_void_p), ("count", c_int64), ("dtype", c_int32)]


class ChooseCall(ctypes.Structure):
    """`ChooseCall` of `choice.h`."""

    _fields_ = [
        ("ids", c_void_p),
        ("starts", c_void_p),
        ("holders", c_void_p),
        ("call", c_void_p),
        ("expert", c_void_p),
        ("pair", c_void_p),
        ("ranks", c_void_p),
        ("pairs", c_void_p),
        ("shard_of", c_void_p),
        ("given", c_void_p),
        ("count", c_int64),
        ("experts", c_int32),
        ("shards", c_int32),
    ]
