"""A Front that follows another on its node: both listen on one port for a while, and only the newer one afterwards."""

from collections.abc import Sequence

from cluster.config import ClusterConfig
from cluster.processes.service_registry import Announcement


def shares_port(config: ClusterConfig) -> bool:
    """Whether a newer Front is to be able to bind the port of the API beside this one: one of an update in place."""
    return bool(config.cluster.address) and config.cluster.surge != "off"


def elders(entries: Sequence[Announcement], replica: str, node: str) -> list[Announcement]:
    """The Fronts on `node` that share their port and from which `replica`, which has just started, takes over."""
    fronts = [one for one in entries if one.role == "front" and one.node == node and one.replica != replica]
    return [one for one in fronts if one.shares_port]


def has_follower(entries: Sequence[Announcement], replica: str) -> bool:
    """Whether a younger Front on the same node listens on the port of `replica`.

    Args:
        entries: the youngest process last.
    """
    ours = next((number for number, one in enumerate(entries) if one.replica == replica), None)
    if ours is None or not entries[ours].shares_port:
        return False
    younger = entries[ours + 1 :]
    return any(
        one.role == "front" and one.state == "ready" and one.shares_port and one.node == entries[ours].node
        for one in younger
    )
