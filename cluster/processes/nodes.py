"""What the nodes of a joined Ray cluster say of themselves."""

from collections.abc import Sequence
from typing import Any


def bytes_for_each(nodes: Sequence[dict[str, Any]], processes: int) -> int:
    """Memory that each of so many processes finds at least, if they spread evenly over the nodes that have CPUs.

    Args:
        nodes: as `ray.nodes()` returns them.
    """
    able = [node["Resources"] for node in nodes if node["Alive"] and node["Resources"].get("CPU")]
    if not able:
        return 0
    crowd = -(-processes // len(able))  # on the fullest node
    return int(min(resources.get("memory", 0) for resources in able)) // crowd
