"""Reads a SentencePiece model by the `sentencepiece` library, which is an optional dependency."""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experts.checkpoint.errors import CheckpointError
from experts.checkpoint.files import read_bytes

# The largest published ones have 5 MB.
MAX_MODEL_BYTES = 64 << 20
# Types of pieces, as in sentencepiece_model.proto.
UNKNOWN, CONTROL, BYTE = 2, 3, 6
SPACE = "\u2581"
ABSENT = (
    "reading it needs the package sentencepiece: pip install 'expertmesh[sentencepiece]', or add a tokenizer.json made "
    "from it"
)


@dataclass(frozen=True, slots=True)
class PieceModel:
    """A loaded model.

    `outer` encodes a text as in training, and `inner` one that stands behind other text: without the space that many
    models put before a text (`prefixed`). `pieces` are in the order of their ids. `stripped` models leave out the
    spaces around a text.
    """

    outer: Any
    inner: Any
    pieces: tuple[str, ...]
    special: frozenset[int]
    byte_of: dict[int, int]
    bos: str | None
    prefixed: bool
    stripped: bool


def read_model(path: Path) -> PieceModel:
    """Read the model at `path`.

    Raises:
        CheckpointError: the package is not installed, or the file is unreadable or no SentencePiece model.
    """
    library, messages = _library(path)
    try:
        content = read_bytes(path, MAX_MODEL_BYTES)
        proto = messages.ModelProto.FromString(content)
        return _loaded(library, proto, content)
    except CheckpointError:
        raise
    except Exception as error:  # of protobuf, of the operating system, and whatever the library raises
        problem = f"no SentencePiece model: {error}; fetch the file again, or add a tokenizer.json made from it"
        raise CheckpointError(f"{path}: {problem}") from error


def _library(path: Path) -> tuple[Any, Any]:
    try:
        names = ("sentencepiece", "sentencepiece.sentencepiece_model_pb2")
        library, messages = (importlib.import_module(name) for name in names)
    except ImportError as error:
        raise CheckpointError(f"{path}: {ABSENT}") from error
    return library, messages


def _processor(library: Any, content: bytes) -> Any:
    processor = library.SentencePieceProcessor()
    processor.LoadFromSerializedProto(content)
    return processor


def _loaded(library: Any, proto: Any, content: bytes) -> PieceModel:
    outer = _processor(library, content)
    prefixed = bool(proto.normalizer_spec.add_dummy_prefix)
    proto.normalizer_spec.add_dummy_prefix = False
    pieces = [(piece.piece, piece.type) for piece in proto.pieces]
    bos = outer.bos_id()
    return PieceModel(
        outer=outer,
        inner=_processor(library, proto.SerializeToString()),
        pieces=tuple(piece for piece, _ in pieces),
        special=frozenset(id for id, (_, kind) in enumerate(pieces) if kind in (UNKNOWN, CONTROL)),
        # The library has checked that such a piece is <0xAB>.
        byte_of={id: int(piece[3:5], 16) for id, (piece, kind) in enumerate(pieces) if kind == BYTE},
        bos=pieces[bos][0] if bos >= 0 else None,
        prefixed=prefixed,
        stripped=bool(proto.normalizer_spec.remove_extra_whitespaces),
    )
