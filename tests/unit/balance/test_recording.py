"""Recordings: what is written is read again, and what is wrong is named."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.balance.recording import FIELDS, RecordingError, load_recording, save_recording
from experts.demand import Demand
from tests.support.routed_traffic import demand, zipf

HEAT = zipf(2, 8, 1.0)
WINDOWS = [
    replace(demand(HEAT, steps=steps, tokens=3 + steps, seed=steps), seconds=float(steps), layers=(1, 4))
    for steps in (2, 0, 3)
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "routed.npz"
    save_recording(path, WINDOWS)
    return path


def same(one: Demand, other: Demand) -> bool:
    return (
        (one.layers, one.seconds, len(one.batches)) == (other.layers, other.seconds, len(other.batches))
        and (one.tokens_LE == other.tokens_LE).all()
        and all((a.expert_ids_LTK == b.expert_ids_LTK).all() for a, b in zip(one.batches, other.batches, strict=True))
    )


def test_what_is_written_is_read_again(file: Path, tmp_path: Path) -> None:
    assert all(map(same, load_recording(file), WINDOWS))
    unsampled = [replace(WINDOWS[0], batches=())]
    save_recording(tmp_path / "counts.npz", unsampled)
    assert same(load_recording(tmp_path / "counts.npz")[0], unsampled[0])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"version": 2}, "version is 2, this program reads 1"),
        ({"tokens_WLE": np.zeros((3, 2), np.int64)}, r"tokens_WLE is int64 of shape \(3, 2\)"),
        ({"tokens_WLE": np.full((3, 2, 8), -1)}, "tokens_WLE"),
        ({"layers": np.array([4, 1])}, "layers has the shape .* ascending"),
        ({"seconds_W": np.zeros(2)}, "seconds_W has the shape"),
        ({"sizes_N": np.array([1])}, "window_N and sizes_N"),
        ({"window_N": np.array([9] * 5)}, "window_N or sizes_N is out of bounds"),
        ({"ids_LMK": np.zeros((2, 1, 4), np.int16)}, "ids_LMK is int16 of shape"),
        ({"ids_LMK": np.full((2, 28, 4), 8, np.int16)}, "ids_LMK names expert 8, there are 8"),
    ],
)
def test_a_field_that_is_wrong_is_named(file: Path, fields: dict[str, Any], said: str) -> None:
    with np.load(file) as opened:
        data = {name: opened[name] for name in FIELDS}
    np.savez(file, **(data | fields))
    with pytest.raises(RecordingError, match=said):
        load_recording(file)


def test_what_is_no_recording_is_told(tmp_path: Path) -> None:
    file = tmp_path / "x.npz"
    with pytest.raises(RecordingError, match="it is no recording"):
        load_recording(file)
    file.write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(RecordingError, match="it is no recording"):
        load_recording(file)
    np.savez(file, version=1)
    with pytest.raises(RecordingError, match=r"layers, .* missing"):
        load_recording(file)


def test_windows_must_be_alike(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="of the same layers"):
        save_recording(tmp_path / "x.npz", [])
    with pytest.raises(ValueError, match="of the same layers"):
        save_recording(tmp_path / "x.npz", [WINDOWS[0], replace(WINDOWS[0], layers=(0, 1))])
