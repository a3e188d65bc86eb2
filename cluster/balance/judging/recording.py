"""What a cluster has routed, as a file: all that advice needs, so that it can be had again without the cluster.

JSON, with the placement as `cluster.balance.placement_file` has it. The experts of a sampled step, int16 [L, T, K], are
compressed (zlib, little-endian, base64). L MoE layers, E experts, S shards, T tokens, K experts per token.
"""

import base64
import binascii
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from cluster.balance.bounded_file import load
from cluster.balance.placement_file import PlacementFileError, read_placement, write_placement
from cluster.balance.supply import Supply
from experts.costs import ShardCosts
from experts.demand import Demand, RoutedBatch
from experts.placement import Placement

# A cluster keeps a few MiB; what is read is kept in memory.
MOST_BYTES = 256 << 20
# More steps say little more, and are all replayed.
MOST_STEPS = 512
ADVICE = "take what `expertmesh advise --record` has written"


class RecordingError(ValueError):
    """A recording that cannot be read; the message names the field and what is wrong."""


@dataclass(frozen=True, slots=True)
class Recording:
    """Demands of times that follow each other, the oldest first, of a cluster with this supply and placement."""

    windows: tuple[Demand, ...]
    supply: Supply
    current: Placement
    layers: tuple[int, ...]

    @property
    def seconds(self) -> float:
        """How long it is."""
        return sum(window.seconds for window in self.windows)

    def followed_by(self, later: "Recording") -> "Recording":
        """This and then `later`, with its supply and placement; at most `MOST_STEPS` steps are kept, evenly spaced.

        Raises:
            RecordingError: it is of another model.
        """
        if later.layers != self.layers or later.current.experts != self.current.experts:
            raise RecordingError("the recordings are of different models")
        return replace(later, windows=_thinned((*self.windows, *later.windows)))


class _Step(msgspec.Struct, forbid_unknown_fields=True):
    tokens: int
    experts_per_token: int
    ids: str


class _Window(msgspec.Struct, forbid_unknown_fields=True):
    seconds: float
    tokens: list[list[int]]
    steps: list[_Step]


class _File(msgspec.Struct, forbid_unknown_fields=True):
    format: Literal["expertmesh-routing"]
    version: Literal[1]
    copies: int
    expert_bytes: int
    slots: list[int]
    nodes: list[str]
    call_us: list[float]
    expert_us: list[float]
    pair_us: list[float]
    placement: msgspec.Raw
    windows: list[_Window]


def write_recording(recording: Recording) -> str:
    """The file's text."""
    supply, costs = recording.supply, recording.supply.costs
    file = _File(
        format="expertmesh-routing",
        version=1,
        copies=supply.copies,
        expert_bytes=supply.expert_bytes,
        slots=supply.slots_S.tolist(),
        nodes=list(supply.nodes_S),
        call_us=costs.call_us_S.tolist(),
        expert_us=costs.expert_us_S.tolist(),
        pair_us=costs.pair_us_S.tolist(),
        placement=msgspec.Raw(write_placement(recording.current, recording.layers).strip().encode()),
        windows=[_written(window) for window in recording.windows],
    )
    return msgspec.json.encode(file).decode()


def load_recording(file: Path) -> Recording:
    """Read a file.

    Raises:
        RecordingError: it cannot be read; see also `read_recording`.
    """
    return load(file, MOST_BYTES, read_recording, RecordingError)


def read_recording(text: str | bytes) -> Recording:
    """Read a recording's text.

    Raises:
        RecordingError: it is no JSON, of another format or version, or a field is missing or wrong.
    """
    if len(text) > MOST_BYTES:
        raise RecordingError(f"it has over {MOST_BYTES >> 20} MiB: no recording is so large")
    try:
        file = msgspec.json.decode(text, type=_File)
        saved = read_placement(bytes(file.placement))
    except PlacementFileError as error:
        raise RecordingError(f"placement: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecordingError(f"it is no recording: {error}: {ADVICE}") from error
    supply = _supply(file, saved.placement.shards)
    experts = saved.placement.experts
    windows = tuple(
        _read(window, f"windows[{place}]", saved.layers, experts) for place, window in enumerate(file.windows)
    )
    return Recording(windows, supply, saved.placement, saved.layers)


def _written(window: Demand) -> _Window:
    return _Window(window.seconds, window.tokens_LE.tolist(), [_packed(batch) for batch in window.batches])


def _packed(batch: RoutedBatch) -> _Step:
    ids_LTK = batch.expert_ids_LTK.astype("<i2")
    packed = base64.b64encode(zlib.compress(ids_LTK.tobytes())).decode()
    return _Step(ids_LTK.shape[1], ids_LTK.shape[2], packed)


def _read(window: _Window, where: str, layers: tuple[int, ...], experts: int) -> Demand:
    if not (0 <= window.seconds < math.inf):
        raise RecordingError(f"{where}.seconds is {window.seconds:g}, it must be at least 0: {ADVICE}")
    if len(window.tokens) != len(layers) or any(len(row) != experts for row in window.tokens):
        raise RecordingError(f"{where}.tokens must have {experts} counts for each of {len(layers)} layers: {ADVICE}")
    if any(not 0 <= count < 1 << 53 for row in window.tokens for count in row):
        raise RecordingError(f"{where}.tokens must be counts, at least 0: {ADVICE}")
    batches = tuple(
        _unpacked(step, f"{where}.steps[{place}]", len(layers), experts) for place, step in enumerate(window.steps)
    )
    return Demand(layers, np.array(window.tokens, dtype=np.int64), window.seconds, batches)


def _unpacked(step: _Step, where: str, layers: int, experts: int) -> RoutedBatch:
    if not (0 < step.tokens < 1 << 20 and 0 < step.experts_per_token <= experts):
        raise RecordingError(f"{where}: its tokens or experts_per_token are out of bounds: {ADVICE}")
    size = 2 * layers * step.tokens * step.experts_per_token
    try:
        # Bounded: a few bytes of a stranger's file could stand for gigabytes.
        ids = zlib.decompressobj().decompress(base64.b64decode(step.ids, validate=True), size + 1)
    except (binascii.Error, ValueError, zlib.error) as error:
        raise RecordingError(f"{where}.ids cannot be unpacked: {error}: {ADVICE}") from error
    if len(ids) != size:
        raise RecordingError(f"{where}.ids is not of {layers} layers and {step.tokens} tokens: {ADVICE}")
    ids_LTK = np.frombuffer(ids, dtype="<i2").reshape(layers, step.tokens, step.experts_per_token)
    if ids_LTK.min() < -1 or ids_LTK.max() >= experts:
        raise RecordingError(f"{where}.ids names an expert that there is not: {ADVICE}")
    return RoutedBatch(ids_LTK.astype(np.int16))


def _supply(file: _File, shards: int) -> Supply:
    for name in ("slots", "nodes", "call_us", "expert_us", "pair_us"):
        if len(getattr(file, name)) != shards:
            raise RecordingError(f"{name} must have an entry for each of {shards} shards: {ADVICE}")
    for name in ("call_us", "expert_us", "pair_us"):
        if not all(0 < us < math.inf for us in getattr(file, name)):
            raise RecordingError(f"{name} must be over 0: {ADVICE}")
    if not all(0 <= slots < 1 << 31 for slots in file.slots) or not 1 <= file.copies <= shards or file.expert_bytes < 0:
        raise RecordingError(f"slots, copies or expert_bytes are out of bounds: {ADVICE}")
    costs = ShardCosts(*(np.array(us, dtype=float) for us in (file.call_us, file.expert_us, file.pair_us)))
    return Supply(np.array(file.slots, dtype=np.int64), costs, tuple(file.nodes), file.copies, file.expert_bytes)


def _thinned(windows: Sequence[Demand]) -> tuple[Demand, ...]:
    """The windows with every n-th of their steps, so that at most `MOST_STEPS` stay; one of each window at least."""
    steps = sum(len(window.batches) for window in windows)
    every = max(1, -(-steps // MOST_STEPS))
    return tuple(replace(window, batches=tuple(window.batches[::every])) for window in windows)
