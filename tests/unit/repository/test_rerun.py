"""The repeat of cluster tests: pytest runs small suites laid out like this one."""

from pathlib import Path

import pytest

from tests import rerun

# Fails on its first run, and passes on a cluster that the first run has not broken.
SHAKY = """
import pytest

LIVES = []

@pytest.fixture(scope="SCOPE")
def cluster():
    LIVES.append("up")
    yield LIVES
    LIVES.append("down")

def test_before(cluster):
    pass

def test_shaky(cluster):
    print("what the cluster said")
    assert cluster == ["up", "down", "up"]

def test_after(cluster):
    assert cluster[-1] == "up"
"""
BROKEN_FIXTURE = """
import pytest

LIVES = []

@pytest.fixture(scope="SCOPE")
def cluster():
    LIVES.append("up")
    assert len(LIVES) > 1, "it did not come up"

def test_shaky(cluster):
    pass
"""


def run(pytester: pytest.Pytester, files: dict[str, str], *args: str) -> pytest.RunResult:
    for name, text in files.items():
        path = pytester.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    flags = ("-p", "no:randomly", "-p", "no:cacheprovider", *args)
    return pytester.runpytest_inprocess(*flags, plugins=[rerun])


def kept(pytester: pytest.Pytester) -> list[Path]:
    return sorted((pytester.path / "build" / "flaky").glob("*.txt"))


@pytest.mark.parametrize("scope", ["function", "module", "session"])
def test_a_repeat_that_passes_counts_and_is_named(pytester: pytest.Pytester, scope: str) -> None:
    after = {"tests/page/test_later.py": "def test_later():\n    pass\n"}
    shaky = SHAKY.replace("SCOPE", scope)
    if scope == "function":
        shaky = shaky.replace('== ["up", "down", "up"]', "and len(cluster) > 3")
    result = run(pytester, {"tests/e2e/test_one.py": shaky, **after})
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["flaky: tests/e2e/test_one.py::test_shaky (its first failure: build/flaky/*.txt)"])
    (file,) = kept(pytester)
    assert "what the cluster said" in file.read_text()
    assert "assert" in file.read_text()


@pytest.mark.parametrize("scope", ["function", "module", "session"])
def test_a_fixture_that_failed_is_made_anew(pytester: pytest.Pytester, scope: str) -> None:
    after = {"tests/page/test_later.py": "def test_later():\n    pass\n"}
    result = run(pytester, {"tests/e2e/test_one.py": BROKEN_FIXTURE.replace("SCOPE", scope), **after})
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=2)
    assert "it did not come up" in kept(pytester)[0].read_text()


def test_what_fails_twice_has_failed(pytester: pytest.Pytester) -> None:
    result = run(pytester, {"tests/helm/test_serve_config.py": "def test_bad():\n    assert not 'bad'\n"})
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["failed twice: tests/helm/test_serve_config.py::test_bad*"])
    result.stdout.no_fnmatch_line("flaky:*")


def test_a_teardown_that_fails_is_repeated(pytester: pytest.Pytester) -> None:
    text = """
import pytest

LIVES = []

@pytest.fixture
def cluster():
    yield
    LIVES.append("down")
    assert len(LIVES) > 1

def test_one(cluster):
    pass
"""
    result = run(pytester, {"tests/ray/test_one.py": text})
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize("folder", ["ray", "e2e", "page", "dashboards/live", "helm/containers"])
def test_every_folder_whose_tests_start_processes_is_in_the_scope(pytester: pytest.Pytester, folder: str) -> None:
    assert any((Path(__file__).parents[2] / folder).glob("test_*.py")), "the scope names a folder that is no more"
    name = f"tests/{folder}/test_one.py"
    result = run(pytester, {name: "RUNS = []\n\ndef test_one():\n    RUNS.append(1)\n    assert len(RUNS) > 1\n"})
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f"flaky: {name}::test_one (its first failure: build/flaky/*.txt)"])


@pytest.mark.parametrize(
    "name",
    [
        "tests/unit/test_one.py",
        "tests/unit/e2e/test_one.py",
        "tests/helm/test_chart.py",
        "tests/dashboards/test_panels.py",
        "tests/e2e_like/test_one.py",
    ],
)
def test_others_are_never_repeated(pytester: pytest.Pytester, name: str) -> None:
    result = run(pytester, {name: "RUNS = []\n\ndef test_one():\n    RUNS.append(1)\n    assert len(RUNS) > 1\n"})
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=1)
    assert kept(pytester) == []


def test_a_run_that_ends_before_the_repeats_has_failed(pytester: pytest.Pytester) -> None:
    text = """
def test_one():
    assert False

def test_stop(request):
    request.session.shouldstop = "enough"
"""
    result = run(pytester, {"tests/e2e/test_one.py": text})
    assert result.ret != pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["failed, not repeated: tests/e2e/test_one.py::test_one*"])
