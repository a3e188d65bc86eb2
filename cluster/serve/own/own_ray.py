"""The processes of a Ray that we started: whether those that carry all others live, and their end at once."""

import contextlib
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil
import ray

from cluster.serve.ray_start import RayFailedError

# Without one of these nothing goes on: the control service (GCS), and the process that starts and ends workers.
CARRIERS = ("gcs_server", "raylet")
# Looking through the machine's processes takes milliseconds of a core.
LOOK_SECONDS = 1.0
KILL_SECONDS = 3.0
RAY_FILES = str(Path(ray.__file__).parent)


class OwnRay:
    """Watches the carriers among this process's children; `clock` counts seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looked = -LOOK_SECONDS
        self._carriers: dict[str, psutil.Process] = {}

    def missing(self) -> list[str]:
        """The carriers that were seen and have ended; looks once a second."""
        if self._clock() - self._looked >= LOOK_SECONDS:
            self._looked = self._clock()
            # Dead ones of an earlier try, which this process has taken the place of, are still its children.
            seen = {_name(one): one for one in _children() if _name(one) in CARRIERS and _runs(one)}
            self._carriers = seen | self._carriers
        return [name for name, process in self._carriers.items() if not _runs(process)]

    def check(self) -> None:
        """Fail as soon as one of them has ended, where Ray itself would wait for minutes.

        Raises:
            RayFailedError: naming them.
        """
        if ended := self.missing():
            raise RayFailedError(f"Ray's {' and '.join(ended)} ended")

    def kill(self) -> None:
        """End all processes of that Ray now, those of its workers among them."""
        deadline = time.monotonic() + KILL_SECONDS
        while (family := _family()) and time.monotonic() < deadline:
            _kill(family)  # again: a start that is still under way may have added some


def _family() -> list[psutil.Process]:
    """Ray's processes below this one, the GCS first: it would report the end of the others to us."""
    found: list[psutil.Process] = []
    for child in _children():
        with contextlib.suppress(psutil.Error):
            if any(RAY_FILES in word for word in child.cmdline()[:4]):
                found += [child, *child.children(recursive=True)]
    return sorted(found, key=lambda one: _name(one) != CARRIERS[0])


def _kill(processes: Iterable[psutil.Process]) -> None:
    ended = []
    for one in processes:
        with contextlib.suppress(psutil.Error):
            one.kill()
            ended.append(one)
    psutil.wait_procs(ended, timeout=KILL_SECONDS)


def _children() -> list[psutil.Process]:
    return psutil.Process().children()


def _runs(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _name(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return str(process.name())
    return ""
