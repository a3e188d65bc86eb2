"""Tensors of the Open Inference Protocol: their elements, as contents or as raw bytes."""

import math
import struct
from collections.abc import Sequence
from typing import TypeAlias

from router_service.front.errors import invalid
from router_service.protocol import open_inference_pb2 as kserve

Element: TypeAlias = bytes | bool | int
# A BYTES element's length, in raw contents.
LENGTH = struct.Struct("<I")
# What this server reads and writes of each datatype: the field of the contents, and how an element is packed.
FIELDS = {"BYTES": "bytes_contents", "BOOL": "bool_contents", "UINT32": "uint_contents"}
PACKED = {"BOOL": struct.Struct("<?"), "UINT32": LENGTH}

Input: TypeAlias = kserve.ModelInferRequest.InferInputTensor
Output: TypeAlias = kserve.ModelInferResponse.InferOutputTensor


def read_tensors(request: kserve.ModelInferRequest, datatypes: dict[str, str]) -> dict[str, list[Element]]:
    """Return the elements of each input by its name. `datatypes` are those of the inputs that there may be.

    Raises:
        RequestError: INVALID_ARGUMENT that names the input: an unknown one, one that comes twice, another datatype, or
            contents that are not those of its shape.
    """
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise invalid(
            "raw_input_contents", f"has {len(raw)} entries, inputs has {len(request.inputs)}: send one of each"
        )
    tensors: dict[str, list[Element]] = {}
    for index, tensor in enumerate(request.inputs):
        field = f"inputs[{index}] ({tensor.name})"
        if tensor.name not in datatypes or tensor.name in tensors:
            raise invalid(field, f"the inputs are {', '.join(datatypes)}, each at most once")
        if tensor.datatype != datatypes[tensor.name]:
            raise invalid(field, f"its datatype is {datatypes[tensor.name]}, got {tensor.datatype!r}")
        tensors[tensor.name] = _elements(field, tensor, raw[index] if raw else None)
    return tensors


def _elements(field: str, tensor: Input, raw: bytes | None) -> list[Element]:
    contents: Sequence[Element] = getattr(tensor.contents, FIELDS[tensor.datatype])
    elements = list(contents) if raw is None else _unpacked(field, raw, tensor.datatype)
    if any(size < 0 for size in tensor.shape) or math.prod(tensor.shape) != len(elements):
        raise invalid(field, f"has {len(elements)} elements, its shape is {list(tensor.shape)}: let them agree")
    return elements


def _unpacked(field: str, raw: bytes, datatype: str) -> list[Element]:
    if datatype != "BYTES":
        return [element for (element,) in PACKED[datatype].iter_unpack(raw)]
    elements: list[Element] = []
    at = 0
    while at < len(raw):
        begin = at + LENGTH.size
        at = begin + LENGTH.unpack_from(raw, at)[0] if begin <= len(raw) else begin
        if at > len(raw):
            raise invalid(field, "its raw contents end within an element: each is its length in 4 bytes and its bytes")
        elements.append(raw[begin:at])
    return elements


def add_output(
    response: kserve.ModelInferResponse, name: str, datatype: str, elements: Sequence[Element], raw: bool
) -> None:
    """Add an output of shape [number of elements], as `raw` bytes or as contents."""
    output = response.outputs.add(name=name, datatype=datatype, shape=[len(elements)])
    if raw:
        response.raw_output_contents.append(b"".join(_packed(element, datatype) for element in elements))
    else:
        getattr(output.contents, FIELDS[datatype]).extend(elements)


def _packed(element: Element, datatype: str) -> bytes:
    if isinstance(element, bytes):
        return LENGTH.pack(len(element)) + element
    return PACKED[datatype].pack(element)
