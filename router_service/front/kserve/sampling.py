"""Sampling fields by name, as parameters of the Open Inference Protocol or as JSON, in the API's own form."""

import json
from collections.abc import Mapping
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from experts.host.shown import shown
from router_service.front.errors import invalid
from router_service.protocol import inference_pb2 as pb

# As vLLM calls them.
ALIASES = {"include_stop_str_in_output": "include_stop_text", "max_new_tokens": "max_tokens"}
KINDS: dict[int, type] = {
    FieldDescriptor.CPPTYPE_BOOL: bool,
    FieldDescriptor.CPPTYPE_FLOAT: float,
    FieldDescriptor.CPPTYPE_INT32: int,
    FieldDescriptor.CPPTYPE_UINT32: int,
    FieldDescriptor.CPPTYPE_UINT64: int,
    FieldDescriptor.CPPTYPE_STRING: str,
}
# Named fields only: log-probabilities have no tensor here, and `choice` is a message.
FIELDS = {
    field.name: field
    for field in pb.Sampling.DESCRIPTOR.fields
    if field.cpp_type in KINDS and "logprobs" not in field.name
}


def sampling_of(named: Mapping[str, object], text: str = "") -> pb.Sampling:
    """Return the fields of `named`, over those of `text`, a JSON object; null is unset.

    Names in `named` that are no sampling fields are left out: platforms send parameters of their own.

    Raises:
        RequestError: INVALID_ARGUMENT that names the field: not such JSON, an unknown name in it, or a value of another
            type. Bounds are checked where all requests' are.
    """
    sampling = pb.Sampling()
    for name, value in _parsed(text).items():
        known = ALIASES.get(name, name)
        if known not in FIELDS:
            raise invalid(f"sampling_parameters.{shown(name)}", f"is none of {', '.join([*FIELDS, *ALIASES])}")
        _set(sampling, f"sampling_parameters.{name}", known, value)
    for name, value in named.items():
        if (known := ALIASES.get(name, name)) in FIELDS:
            sampling.ClearField(known)
            _set(sampling, f"parameters.{name}", known, value)
    return sampling


def _parsed(text: str) -> dict[str, object]:
    try:
        values = json.loads(text) if text else {}
    except (ValueError, RecursionError) as error:
        raise invalid("sampling_parameters", f"must be a JSON object: {error}") from error
    if not isinstance(values, dict):
        raise invalid("sampling_parameters", f"must be a JSON object, got {type(values).__name__}")
    return {name: value for name, value in values.items() if value is not None}


def _set(sampling: pb.Sampling, path: str, name: str, value: object) -> None:
    kind, repeated = KINDS[FIELDS[name].cpp_type], FIELDS[name].is_repeated
    given = value if repeated and isinstance(value, list) else [value]
    try:
        values = [_as(kind, one) for one in given]
        if repeated:
            getattr(sampling, name).extend(values)
        else:
            setattr(sampling, name, values[0])
    except (TypeError, ValueError) as error:
        wanted = f"a list of {kind.__name__}" if repeated else kind.__name__
        raise invalid(path, f"must be {wanted} within its bounds, got {shown(str(value))}") from error


def _as(kind: type, value: object) -> Any:
    """Return `value` as a bool, int, float or str; numbers may be texts, as Triton's clients send them.

    Raises:
        ValueError: it is none.
    """
    if kind is not str and isinstance(value, str):
        value = json.loads(value.lower())
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise ValueError(f"a {type(value).__name__}")
    return value
