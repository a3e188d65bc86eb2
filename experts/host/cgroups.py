"""The control groups that this process is in: what a container may use is written there, not in the host's numbers."""

from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


def own_groups(controller: str, root: Path = CGROUPS, own: Path = OWN_CGROUPS) -> Iterator[tuple[Path, int]]:
    """Folders of our groups that have `controller` (cpu, memory), from the innermost out, each with its version.

    Args:
        root: where groups are mounted.
        own: the kernel's list of our groups.
    """
    for line in own.read_text().splitlines() if own.exists() else []:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from ((group, 2) for group in _outwards(root, path))
        elif controller in controllers.split(","):
            yield from ((group, 1) for group in _outwards(root / controller, path))


def _outwards(mount: Path, path: str) -> Iterator[Path]:
    # In a container our path may be that of the host, of which only the mount itself is seen here.
    inner = mount / path.lstrip("/")
    return (group for group in (inner, *inner.parents) if group.is_relative_to(mount))
