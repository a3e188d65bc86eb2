"""A cluster, browser, chart, live dashboard or image test that fails is run once more; the run's last lines name it.

Those tests start processes, which a busy machine may keep from their time. The repeat comes after all other tests,
with a time limit of its own and every fixture made anew. What the first run said is kept in a file. Unit tests are
never repeated, nor is anything where xdist deals the tests out.

Not pytest-rerunfailures: it repeats at once, on the module's fixtures that the first run may have broken, and within
what the first run has left of the time limit.
"""

import re
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol

FOLDERS = ("tests/ray", "tests/e2e", "tests/page", "tests/dashboards/live", "tests/helm/containers")
FILES = ("tests/helm/test_serve_config.py",)
OUTPUT = Path("build/flaky")
REPEATED = "repeated"


def may_be_repeated(path: str) -> bool:
    """Whether a test of this file is; `path` is relative to the root, with slashes."""
    return path in FILES or path.startswith(tuple(f"{folder}/" for folder in FOLDERS))


class Rerun:
    """The plugin of one run. `first` has each test that failed once, and then how it ended: "" until it has."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.first: dict[str, str] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        """Run a test; one that fails goes to the end of the session's list, which pytest is walking along."""
        if not may_be_repeated(item.path.relative_to(self.root).as_posix()):
            return None
        again = item.nodeid in self.first
        # Without a next test everything is torn down: a repeat finds nothing of what ran before.
        alone = again or (nextitem is not None and nextitem.nodeid in self.first)
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        reports = runtestprotocol(item, log=False, nextitem=None if alone else nextitem)
        self._ended(item, reports, again)
        for report in reports:
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def _ended(self, item: pytest.Item, reports: list[pytest.TestReport], again: bool) -> None:
        failed = [report for report in reports if report.failed]
        if again:
            self.first[item.nodeid] = "failed twice" if failed else "flaky"
        elif failed:
            self.first[item.nodeid] = ""
            self._file(item.nodeid).write_text("\n".join(map(_said, failed)))
            reports[:] = failed[:1]
            reports[0].outcome = REPEATED  # type: ignore[assignment]
            item.session.items.append(item)

    def _file(self, nodeid: str) -> Path:
        folder = self.root / OUTPUT
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{re.sub(r'[^A-Za-z0-9.-]+', '_', nodeid)[:200]}.txt"

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        return (REPEATED, "R", "FAILED, to be repeated") if report.outcome == REPEATED else None

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for nodeid, end in self.first.items():
            file = self._file(nodeid).relative_to(self.root)
            terminalreporter.write_line(f"{end or 'failed, not repeated'}: {nodeid} (its first failure: {file})")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """A run that was broken off before the repeats has not passed."""
        if session.exitstatus == pytest.ExitCode.OK and not all(self.first.values()):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _said(report: pytest.TestReport) -> str:
    sections = [f"--- {title} ---\n{text}" for title, text in report.sections]
    return "\n".join([f"=== {report.when} of {report.nodeid} ===", report.longreprtext, *sections, ""])


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput") and not config.getoption("numprocesses", None):
        config.pluginmanager.register(Rerun(config.rootpath), "rerun of cluster tests")
