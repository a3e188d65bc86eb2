"""How much memory is available on this host, within our control groups."""

import ctypes
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

from experts.host.cgroups import CGROUPS, OWN_CGROUPS, own_groups

# Names of limit, usage and what the kernel gives back on demand, by the version of control groups.
NAMES = {
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def host_bytes(root: Path = CGROUPS, own: Path = OWN_CGROUPS) -> int:
    """Bytes available on this host, or in the tightest of our control groups if that is less."""
    return min([psutil.virtual_memory().available, *cgroup_rooms(root, own)])


def give_back() -> None:
    """Let the system have what malloc keeps of freed memory, where that can be told to (glibc); takes milliseconds."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


def cgroup_rooms(root: Path, own: Path) -> Iterator[int]:
    """Bytes left in each of our control groups that has a memory limit, from the innermost out."""
    for group, version in own_groups("memory", root, own):
        if (room := _room(group, *NAMES[version])) is not None:
            yield room


def _room(group: Path, limit: str, usage: str, reclaimable: str) -> int | None:
    """Bytes left in one group; None where it sets no limit or cannot be read."""
    try:
        most, used = (group / limit).read_text().strip(), int((group / usage).read_text())
        given_back = re.search(rf"^{reclaimable} (\d+)$", (group / "memory.stat").read_text(), re.MULTILINE)
    except (OSError, ValueError):
        return None
    if most == "max":
        return None
    # Inactive file pages count as usage, but the kernel drops them when memory is wanted.
    return max(0, int(most) - used + (int(given_back[1]) if given_back else 0))
