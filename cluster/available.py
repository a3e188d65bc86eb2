"""How much memory there is for what we start: of this host within its cgroup, or of its GPUs."""

import re
from collections.abc import Iterator
from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
GIB = 1 << 30
# Names of limit, usage and what the kernel gives back on demand, in cgroup v2 and v1.
V2 = ("memory.max", "memory.current", "inactive_file")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def limited(there: int, limit_gib: float) -> int:
    """Bytes that may be used: what is there, or `cluster.memory_limit_gib` where that is set and lower."""
    return min(there, int(limit_gib * GIB)) if limit_gib else there


def host_bytes(root: Path = CGROUPS, own: Path = OWN_CGROUPS) -> int:
    """Bytes available on this host, or in the tightest of our control groups if that is less."""
    return min([psutil.virtual_memory().available, *cgroup_rooms(root, own)])


def device_bytes() -> int:
    """Bytes free on the fullest of the GPUs that this process sees, 0 if it sees none."""
    import torch

    return min((torch.cuda.mem_get_info(index)[0] for index in range(torch.cuda.device_count())), default=0)


def cgroup_rooms(root: Path, own: Path) -> Iterator[int]:
    """Bytes left in each of our control groups that has a memory limit, from the innermost out."""
    for line in own.read_text().splitlines() if own.exists() else []:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from _rooms(root, path, V2)
        elif "memory" in controllers.split(","):
            yield from _rooms(root / "memory", path, V1)


def _rooms(mount: Path, path: str, names: tuple[str, str, str]) -> Iterator[int]:
    # In a container our path may be that of the host, of which only the mount itself is seen here.
    inner = mount / path.lstrip("/")
    for group in (inner, *inner.parents):
        if group.is_relative_to(mount) and (room := _room(group, *names)) is not None:
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
    return max(0, int(most) - used + (int(given_back[1]) if given_back else 0))
