"""A recording of what was routed, for `cluster.balance.advice` and for benchmarks: a NumPy archive (.npz).

`version` 1; `layers`, the numbers of the L MoE layers; of W windows that follow each other `seconds_W` and
`tokens_WLE`; of N sampled steps `window_N`, the window of each, `sizes_N`, its tokens, and `ids_LMK` int16, all steps'
experts, one step after the other: M tokens in all, K experts each. A lost expert is -1.
"""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experts.demand import Demand, RoutedBatch

VERSION = 1
FIELDS = ("version", "layers", "seconds_W", "tokens_WLE", "window_N", "sizes_N", "ids_LMK")


class RecordingError(ValueError):
    """A recording that cannot be read; the message names the field, its value and what to do."""


def save_recording(file: Path, windows: Sequence[Demand]) -> None:
    """Write windows of the same layers, oldest first.

    Raises:
        ValueError: there are none, or they are of different layers or experts.
    """
    if not windows or len({(one.layers, one.tokens_LE.shape) for one in windows}) > 1:
        raise ValueError("a recording is of one or more windows of the same layers and experts")
    steps = [(place, batch.expert_ids_LTK) for place, one in enumerate(windows) for batch in one.batches]
    empty_LMK = np.zeros((len(windows[0].layers), 0, 1), np.int16)
    with file.open("wb") as opened:
        np.savez_compressed(
            opened,
            version=VERSION,
            layers=np.array(windows[0].layers, np.int64),
            seconds_W=np.array([one.seconds for one in windows]),
            tokens_WLE=np.stack([one.tokens_LE for one in windows]),
            window_N=np.array([place for place, _ in steps], np.int64),
            sizes_N=np.array([ids_LTK.shape[1] for _, ids_LTK in steps], np.int64),
            ids_LMK=np.concatenate([ids_LTK for _, ids_LTK in steps], axis=1) if steps else empty_LMK,
        )


def load_recording(file: Path) -> list[Demand]:
    """Read the windows of a recording, oldest first.

    Raises:
        RecordingError: it cannot be read, or is of another version, or a field is missing or does not fit the others.
    """
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as opened:
            data = {name: opened[name] for name in FIELDS if name in opened.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise RecordingError(f"{file}: it is no recording: {error}: take a file that was recorded") from error
    if missing := [name for name in FIELDS if name not in data]:
        raise RecordingError(f"{file}: {', '.join(missing)} missing: take a file that was recorded")
    if data["version"].shape or data["version"] != VERSION:
        raise RecordingError(f"{file}: version is {data['version']}, this program reads {VERSION}: record it again")
    if wrong := _wrong(data):
        raise RecordingError(f"{file}: {wrong}: record it again")
    return _windows(data)


def _wrong(data: dict[str, Any]) -> str:
    """Which field does not fit the others, or nothing."""
    layers, tokens_WLE, ids_LMK = data["layers"], data["tokens_WLE"], data["ids_LMK"]
    if tokens_WLE.ndim != 3 or tokens_WLE.dtype.kind != "i" or not tokens_WLE.size or tokens_WLE.min() < 0:
        return f"tokens_WLE is {tokens_WLE.dtype} of shape {tokens_WLE.shape}, it must count tokens"
    windows, count, experts = tokens_WLE.shape
    if layers.shape != (count,) or layers.dtype.kind != "i" or (np.diff(layers) <= 0).any() or layers[0] < 0:
        return f"layers has the shape {layers.shape}, it must be {count} ascending numbers"
    if data["seconds_W"].shape != (windows,) or data["seconds_W"].dtype.kind != "f":
        return f"seconds_W has the shape {data['seconds_W'].shape}, it must be {windows} numbers"
    window_N, sizes_N = data["window_N"], data["sizes_N"]
    if window_N.ndim != 1 or window_N.shape != sizes_N.shape or {window_N.dtype.kind, sizes_N.dtype.kind} != {"i"}:
        return f"window_N and sizes_N have the shapes {window_N.shape} and {sizes_N.shape}, they must be alike"
    if len(window_N) and not (window_N.min() >= 0 and window_N.max() < windows and sizes_N.min() > 0):
        return "window_N or sizes_N is out of bounds"
    if ids_LMK.ndim != 3 or ids_LMK.dtype != np.int16 or ids_LMK.shape[:2] != (count, int(sizes_N.sum())):
        return f"ids_LMK is {ids_LMK.dtype} of shape {ids_LMK.shape}, it must be int16 of the layers and steps' tokens"
    if ids_LMK.size and not (ids_LMK.min() >= -1 and ids_LMK.max() < experts):
        return f"ids_LMK names expert {ids_LMK.max()}, there are {experts}"
    return ""


def _windows(data: dict[str, Any]) -> list[Demand]:
    ends_N = np.cumsum(data["sizes_N"])
    steps = np.split(data["ids_LMK"], ends_N[:-1], axis=1) if len(ends_N) else []
    layers = tuple(int(layer) for layer in data["layers"])
    return [
        Demand(
            layers,
            tokens_LE.astype(np.int64),
            float(data["seconds_W"][place]),
            tuple(RoutedBatch(ids) for ids, of in zip(steps, data["window_N"], strict=True) if of == place),
        )
        for place, tokens_LE in enumerate(data["tokens_WLE"])
    ]
