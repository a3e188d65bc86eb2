"""What a ModelInferRequest asks for, in the API's own form."""

from dataclasses import dataclass

import grpc

from experts.host.shown import shown
from router_service.front.errors import RequestError, invalid
from router_service.front.kserve.sampling import sampling_of
from router_service.front.kserve.tensors import Element, read_tensors
from router_service.protocol import inference_pb2 as pb
from router_service.protocol import open_inference_pb2 as kserve

TEXT = "text_output"
# Names and datatypes of the tensors that there may be. `text`, `prompt`: other names of text_input.
TEXT_INPUTS = ("text_input", "prompt", "text")
INPUTS = dict.fromkeys(TEXT_INPUTS, "BYTES") | {
    "stream": "BOOL",
    "sampling_parameters": "BYTES",
    "exclude_input_in_output": "BOOL",
}
OUTPUTS = {TEXT: "BYTES", "finish_reason": "BYTES", "num_input_tokens": "UINT32", "num_output_tokens": "UINT32"}
VERSION = "1"
# Each is a request of its own, and they are answered together.
MAX_TEXTS = 128


@dataclass(frozen=True, slots=True)
class Wanted:
    """Texts to answer, and how.

    Attributes:
        requests: one for each text, in order; without ids.
        stream: whether the answer comes in pieces.
        with_input: whether a text is returned in front of its answer.
        outputs: names of the wanted outputs.
        raw: whether tensors are raw bytes.
    """

    requests: list[pb.GenerateRequest]
    stream: bool
    with_input: bool
    outputs: tuple[str, ...]
    raw: bool


def wanted_of(request: kserve.ModelInferRequest, model: str) -> Wanted:
    """Return what is wanted of `model`.

    As in Triton's backends, `stream` is false unless it is set, and a text is part of its answer unless
    `exclude_input_in_output` or `stream` is set.

    Raises:
        RequestError: NOT_FOUND for another model, INVALID_ARGUMENT that names what is wrong.
    """
    check_model(request.model_name, request.model_version, model)
    tensors = read_tensors(request, INPUTS)
    parameters = {name: value for name, one in request.parameters.items() if (value := _value(one)) is not None}
    texts = _texts(tensors)
    stream = _flag("stream", tensors, parameters, default=False)
    given = tensors.get("sampling_parameters") or [_text(parameters.get("sampling_parameters", ""))]
    sampling = sampling_of(parameters, _decoded("sampling_parameters", given[0]))
    return Wanted(
        requests=[pb.GenerateRequest(prompt=text, sampling=sampling) for text in texts],
        stream=stream,
        with_input=not _flag("exclude_input_in_output", tensors, parameters, default=stream),
        outputs=_outputs(request),
        raw=bool(request.raw_input_contents),
    )


def check_model(name: str, version: str, model: str) -> None:
    """Check that a request is for the model that is served; an empty name or version is any.

    Raises:
        RequestError: NOT_FOUND.
    """
    if name not in ("", model) or version not in ("", VERSION):
        asked = f"{shown(name)} version {shown(version)}" if version else shown(name)
        problem = f"model {asked} is not served here, {model} version {VERSION} is: send its name"
        raise RequestError(grpc.StatusCode.NOT_FOUND, problem)


def _texts(tensors: dict[str, list[Element]]) -> list[str]:
    given = [name for name in TEXT_INPUTS if name in tensors]
    if len(given) != 1:
        problem = f"exactly one of {', '.join(TEXT_INPUTS)} is required, got {', '.join(given) or 'none'}"
        raise invalid("inputs", problem)
    (name,) = given
    if not 1 <= len(tensors[name]) <= MAX_TEXTS:
        raise invalid(name, f"must have 1 to {MAX_TEXTS} texts, has {len(tensors[name])}: send several requests")
    return [_decoded(name, element) for element in tensors[name]]


def _decoded(name: str, element: Element) -> str:
    try:
        return element.decode() if isinstance(element, bytes) else str(element)
    except UnicodeDecodeError as error:
        raise invalid(name, f"must be UTF-8: {error}") from error


def _text(value: object) -> bytes:
    if not isinstance(value, str):
        raise invalid("parameters.sampling_parameters", f"must be a text with JSON, got {value!r}")
    return value.encode()


def _flag(name: str, tensors: dict[str, list[Element]], parameters: dict[str, object], *, default: bool) -> bool:
    values: list[object] = [*tensors.get(name, [])] or [parameters.get(name, default)]
    if len(values) != 1 or not isinstance(values[0], bool):
        raise invalid(name, f"must be one BOOL, got {shown(values)}")
    return values[0]


def _outputs(request: kserve.ModelInferRequest) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(output.name for output in request.outputs)) or (TEXT,)
    for name in names:
        if name not in OUTPUTS:
            raise invalid("outputs", f"there is no {shown(name)}, only {', '.join(OUTPUTS)}")
    return names


def _value(parameter: kserve.InferParameter) -> object:
    kind = parameter.WhichOneof("parameter_choice")
    return None if kind is None else getattr(parameter, kind)
