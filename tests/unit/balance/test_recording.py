"""Recordings of routed traffic as files: what is written is read, and what is not ours is refused with its field."""

import contextlib
import json
import zlib
from base64 import b64encode
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.balance.advice import advise
from cluster.balance.judging.recording import (
    MOST_STEPS,
    Recording,
    RecordingError,
    load_recording,
    read_recording,
    write_recording,
)
from tests.unit.balance.recordings import EXPERTS, LAYERS, recording, routed

TEXT = write_recording(recording(windows=2))


def same(one: Recording, other: Recording) -> bool:
    return write_recording(one) == write_recording(other)


@given(st.integers(0, 3), st.integers(0, 3), st.integers(1, 9), st.floats(0, 1e6))
def test_what_is_written_is_read(windows: int, steps: int, tokens: int, heat: float) -> None:
    whole = recording(0)
    demands = tuple(routed(seed, steps, tokens, heat) for seed in range(windows)) if steps else ()
    whole = Recording(demands, whole.supply, whole.current, whole.layers)
    read = read_recording(write_recording(whole))
    assert same(read, whole)
    for one, other in zip(read.windows, whole.windows, strict=True):
        assert (one.layers, one.seconds) == (other.layers, other.seconds)
        np.testing.assert_array_equal(one.tokens_LE, other.tokens_LE)
        for a, b in zip(one.batches, other.batches, strict=True):
            np.testing.assert_array_equal(a.expert_ids_LTK, b.expert_ids_LTK)
            assert a.expert_ids_LTK.dtype == np.int16


def test_the_advice_is_the_same_from_the_file() -> None:
    whole = recording(heat=20.0)
    read = read_recording(write_recording(whole))
    assert advise(read.windows, read.supply, read.current) == advise(whole.windows, whole.supply, whole.current)


def test_lost_experts_stay_lost() -> None:
    whole = recording(1)
    whole.windows[0].batches[0].expert_ids_LTK[0, 0, 0] = -1
    assert read_recording(write_recording(whole)).windows[0].batches[0].expert_ids_LTK[0, 0, 0] == -1


def changed(*path: str | int, value: Any) -> str:
    data = json.loads(TEXT)
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(data)


def packed(*ids: int) -> str:
    return b64encode(zlib.compress(np.array(ids, dtype="<i2").tobytes())).decode()


STEP = ("windows", 0, "steps", 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is no recording: "),
        ("[]", "it is no recording: "),
        (b"\xff\xfe", "it is no recording: "),
        ("[" * 100_000, "it is no recording: "),
        (changed("format", value="expertmesh-placement"), "$.format"),
        (changed("version", value=2), "$.version"),
        (changed("surplus", value=1), "unknown field `surplus`"),
        (changed("placement", "experts", value=0), "placement: experts is 0"),
        (changed("slots", value=[1]), "slots must have an entry for each of 2 shards"),
        (changed("slots", value=[1, -1]), "slots, copies or expert_bytes are out of bounds"),
        (changed("copies", value=3), "slots, copies or expert_bytes are out of bounds"),
        (changed("pair_us", value=[1.0, 0.0]), "pair_us must be over 0"),
        (changed("windows", 0, "seconds", value=-1.0), "windows[0].seconds is -1, it must be at least 0"),
        (changed("windows", 1, "tokens", value=[[1]]), "windows[1].tokens must have 8 counts for each of 2 layers"),
        (changed("windows", 0, "tokens", 0, 3, value=-1), "windows[0].tokens must be counts"),
        (changed("windows", 0, "tokens", 0, 3, value=1 << 70), "windows[0].tokens must be counts"),
        (changed(*STEP, "tokens", value=0), "windows[0].steps[0]: its tokens or experts_per_token"),
        (changed(*STEP, "tokens", value=5), "windows[0].steps[0].ids is not of 2 layers and 5 tokens"),
        (changed(*STEP, "ids", value="?"), "windows[0].steps[0].ids cannot be unpacked"),
        (changed(*STEP, "ids", value=b64encode(b"no").decode()), "windows[0].steps[0].ids cannot be unpacked"),
        (changed(*STEP, value={"tokens": 1, "experts_per_token": 1, "ids": packed(0, EXPERTS)}), "there is not"),
        (changed(*STEP, value={"tokens": 1, "experts_per_token": 1, "ids": packed(-2, 0)}), "there is not"),
        (changed(*STEP, value={"tokens": 1, "experts_per_token": 1, "ids": packed(*[0] * 4096)}), "is not of 2 layers"),
    ],
)
def test_what_is_wrong_is_named(text: str | bytes, message: str) -> None:
    with pytest.raises(RecordingError) as caught:
        read_recording(text)
    assert message in str(caught.value)


@given(st.integers(0, len(TEXT) - 1), st.binary(max_size=8))
def test_whatever_a_file_holds_it_is_read_or_refused(place: int, bytes: bytes) -> None:
    text = TEXT.encode()
    with contextlib.suppress(RecordingError):
        read_recording(text[:place] + bytes + text[place + len(bytes) :])


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="cannot be read: No such file"):
        load_recording(tmp_path / "missing")
    (tmp_path / "wrong").write_text("{}")
    with pytest.raises(RecordingError, match="wrong: it is no recording"):
        load_recording(tmp_path / "wrong")


def test_pieces_follow_each_other() -> None:
    early, late = recording(2), recording(3)
    whole = early.followed_by(late)
    assert (len(whole.windows), whole.seconds) == (5, 25.0)
    assert whole.windows[0] is not late.windows[0]
    assert same(whole.followed_by(recording(0)), whole)


def test_pieces_of_different_models_do_not() -> None:
    early = recording(1)
    other = Recording(early.windows, early.supply, early.current, (LAYERS[0],))
    with pytest.raises(RecordingError, match="different models"):
        early.followed_by(other)


def test_a_long_recording_keeps_a_sample_of_its_steps() -> None:
    base = recording(0)
    long = Recording((routed(0, steps=MOST_STEPS, tokens=1),), base.supply, base.current, LAYERS)
    whole = long.followed_by(long)
    assert [len(window.batches) for window in whole.windows] == [MOST_STEPS // 2] * 2
    assert whole.windows[0].tokens_LE.sum() == long.windows[0].tokens_LE.sum()
