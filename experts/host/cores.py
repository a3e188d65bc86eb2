"""How many cores this process may use: those that it may run on, within the quota of its control groups."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

from experts.host.cgroups import CGROUPS, OWN_CGROUPS, own_groups


def usable_cores(root: Path = CGROUPS, own: Path = OWN_CGROUPS) -> int:
    """Cores for computing threads, at least 1. A container with a limit of 4 sees all cores of its host, but has 4."""
    return max(1, math.floor(min([len(os.sched_getaffinity(0)), *_quotas(root, own)])))


def _quotas(root: Path, own: Path) -> Iterator[float]:
    """Cores that each of our control groups (version 2) has time for, from the innermost out."""
    for group, version in own_groups("cpu", root, own):
        if version == 2 and (quota := _quota(group / "cpu.max")) is not None:
            yield quota


def _quota(file: Path) -> float | None:
    try:
        most, period = file.read_text().split()
    except (OSError, ValueError):
        return None
    return None if most == "max" else int(most) / int(period)
