"""A process's priority: not behind everything else on its machine, whoever has started Ray."""

import contextlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path

log = logging.getLogger(__name__)

SETTING = "RAY_worker_niceness"
TASKS = Path("/proc/self/task")


def take_normal_priority(given: Mapping[str, str] = os.environ, tasks: Path = TASKS) -> None:
    """Run at nice 0 where Ray has started this process behind all others, as it does by default (nice 15).

    A Ray of our own starts its workers so (`ray_settings`); on one that we joined each process does it for itself. That
    takes root, CAP_SYS_NICE or a limit that allows it (RLIMIT_NICE); without them a warning says what to do. Where the
    nodes' Ray was told a niceness, that is the user's choice and stays.
    """
    niceness = os.getpriority(os.PRIO_PROCESS, 0)
    if niceness <= 0 or SETTING in given:
        return
    try:
        for task in tasks.iterdir():  # on Linux each thread has a niceness of its own, and Ray's run already
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                os.setpriority(os.PRIO_PROCESS, int(task.name), 0)
    except PermissionError:
        log.warning(
            "this process runs at nice %d, behind everything else on its node, and may not change that; "
            "start Ray there with %s=0, or with CAP_SYS_NICE",
            niceness,
            SETTING,
        )
