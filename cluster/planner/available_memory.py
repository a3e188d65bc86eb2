"""How much memory there is for what we start, beyond what `experts.host.memory` says of the host."""

GIB = 1 << 30


def limited(available: int, limit_gib: float) -> int:
    """Bytes that may be used: what is available, or `cluster.memory_limit_gib` where that is set and lower."""
    return min(available, int(limit_gib * GIB)) if limit_gib else available


def device_bytes() -> int:
    """Bytes free on the fullest of the GPUs that this process sees, 0 if it sees none."""
    import torch

    return min((torch.cuda.mem_get_info(index)[0] for index in range(torch.cuda.device_count())), default=0)
