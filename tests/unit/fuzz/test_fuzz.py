"""A short fuzz of every reader; and that the fuzzer finds a fault and a leak, and the same again by its seed."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import guided
from tests.fuzz.__main__ import main
from tests.fuzz.mutate import mutated
from tests.fuzz.runner import MOST_GROWTH_BYTES, run, shares
from tests.fuzz.target import Target
from tests.fuzz.targets import BY_NAME, TARGETS

SEED = 20261129
INPUTS = 200
EACH = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
KEPT: list[bytearray] = []


def edits(target: Target) -> st.SearchStrategy[bytes]:
    """A seed with some of its bytes replaced; shrinks to the seed."""

    def edited(data: bytes, changes: list[tuple[int, bytes, int]]) -> bytes:
        for at, put, removed in changes:
            at %= len(data) + 1
            data = data[:at] + put + data[at + removed :]
        return data

    change = st.tuples(st.integers(0, 1 << 12), st.binary(max_size=9), st.integers(0, 64))
    return st.builds(edited, st.sampled_from(target.seeds), st.lists(change, max_size=4)) | st.binary(max_size=256)


@EACH
def test_mutated_bytes_raise_what_is_documented(target: Target) -> None:
    assert run(target, SEED, range(INPUTS)).faults == ()


@EACH
def test_hypothesis_finds_nothing_else(target: Target) -> None:
    @settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(edits(target))
    def check(data: bytes) -> None:
        if (error := target.fault(data)) is not None:
            raise error

    check()


@EACH
def test_what_is_valid_is_accepted(target: Target) -> None:
    """Else every mutation of it would be refused at the first byte."""
    assert not all(_refused(target, seed) for seed in target.seeds)


@pytest.mark.parametrize("target", [one for one in TARGETS if one.errors], ids=lambda target: target.name)
def test_some_mutations_are_accepted_and_some_refused(target: Target) -> None:
    refused = [_refused(target, mutated(target, SEED, number)) for number in range(INPUTS)]
    assert {True, False} <= set(refused)


def _refused(target: Target, data: bytes) -> bool:
    try:
        target.check(data)
    except target.errors:
        return True
    return False


def brittle(data: bytes) -> None:
    """Fails at what a mutation makes of a seed now and then."""
    if not data.startswith(b"abc"):
        raise ValueError("documented")
    if len(data) > 30:
        raise IndexError(f"not documented, {len(data)}")


BRITTLE = Target("brittle", (b"abcdef" * 4,), brittle, (ValueError,))


def test_a_fault_is_found_once_and_replays_by_its_number() -> None:
    result = run(BRITTLE, SEED, range(INPUTS))
    (fault,) = result.faults
    assert fault.what.startswith("IndexError: not documented")
    assert mutated(BRITTLE, SEED, fault.number) == fault.data
    assert isinstance(BRITTLE.fault(fault.data), IndexError)
    assert result.inputs == INPUTS


def test_another_seed_gives_other_inputs() -> None:
    assert [mutated(BRITTLE, 1, n) for n in range(50)] != [mutated(BRITTLE, 2, n) for n in range(50)]
    assert [mutated(BRITTLE, 1, n) for n in range(50)] == [mutated(BRITTLE, 1, n) for n in range(50)]


def test_a_leak_is_found() -> None:
    """By a meter of its own: the process may have so much to spare from other tests that it does not grow."""
    size = 4 * MOST_GROWTH_BYTES // INPUTS
    leaking = Target("leaking", (b"x",), lambda _: KEPT.append(bytearray(size)), ())
    faults = run(leaking, SEED, range(INPUTS), meter=lambda: sum(map(len, KEPT))).faults
    KEPT.clear()
    assert [fault.number for fault in faults][:1] == [-1]
    assert "grew by" in faults[0].what


def test_targets_share_the_inputs_by_weight() -> None:
    given = {target.name: count for target, count in shares(TARGETS, 1_000_000)}
    assert sum(given.values()) == 1_000_000
    assert set(given) == set(BY_NAME)
    assert given["header"] > given["config"] > 0


@pytest.mark.parametrize(
    ("case", "code", "said"), [("header:5", 0, "nothing wrong with"), ("nobody:5", 2, "it must be")]
)
def test_a_case_is_replayed_from_the_command_line(
    case: str, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["fuzz", "--seed", "3", "--case", case])
    assert main() == code
    assert said in capsys.readouterr().out


def test_a_run_says_its_seed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(guided, "VERSION", "")
    monkeypatch.setattr("sys.argv", ["fuzz", "--seed", "3", "--inputs", "50", "--target", "header"])
    assert main() == 0
    said = capsys.readouterr().out
    assert said.startswith("seed 3, 50 inputs")
    assert said.endswith("no faults\n")


def test_a_guided_run_finds_nothing() -> None:
    if not guided.VERSION:
        pytest.skip("atheris is not installed")
    assert guided.run(BY_NAME["control"], SEED, 500).faults == ()
