"""How much memory a running shard's experts may take, and how many copies that is. Pure functions."""

from cluster.planner.memory_plan import HEADROOM, MIB

# Left to what grows beside experts while all serve: answers, buffers of more connections, the page cache.
RESERVE_BYTES = 256 * MIB


def shard_budget(held: int, available: int, sharing: int = 1, reserve: int = RESERVE_BYTES) -> int:
    """Bytes that the experts of a shard may take: those that it holds, and its part of what is available.

    Args:
        held: bytes of its experts now.
        available: bytes that are free now where it runs: `experts.host.memory.host_bytes`, or `device_bytes`, within
            `cluster.memory_limit_gib`. KV caches that are to grow are the caller's to take off.
        sharing: shards that share this memory, as all may take over experts at once.
        reserve: bytes to leave free.
    """
    spare = max(0, available - reserve) // max(1, sharing)
    # Allocators round up, as they do at the start.
    return held + spare * HEADROOM[1] // HEADROOM[0]


def copies_in(budget: int, expert_bytes: int, scratch: int) -> int:
    """How many (layer, expert) copies a budget holds, with room for loading one more beside them."""
    return max(0, budget - scratch) // expert_bytes if expert_bytes else 0
