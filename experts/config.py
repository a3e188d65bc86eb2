"""Settings of the experts' side: how many shards, and how they are reached."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ExpertsConfig:
    """Shards and their data plane.

    Args:
        shards: processes that the experts of each layer are spread over
            [processes; at least 1, at most the number of experts]
        call_timeout_seconds: a shard that has not answered a layer's question by then counts as failed
            [seconds; over 0]
        checksum: whether each frame carries a CRC-32 of its payload, which costs about a second per 3 GB
        backend: what computes the experts and the gate [-; one of auto, reference, cpu, triton]
        threads: CPU threads of each shard's computation; 0 shares out the cores that it may use among the shards of its
            node (a pod is one) [threads; at least 0]
    """

    shards: int = 2
    call_timeout_seconds: float = 10.0
    checksum: bool = False
    backend: str = "auto"
    threads: int = 0

    def __post_init__(self) -> None:
        if self.shards < 1:
            raise ValueError(f"experts.shards is {self.shards}, it must be at least 1")
        if not self.call_timeout_seconds > 0:
            raise ValueError(f"experts.call_timeout_seconds is {self.call_timeout_seconds}, it must be positive")
        if self.threads < 0:
            raise ValueError(f"experts.threads is {self.threads}, it must not be negative")
        if self.backend not in ("auto", "reference", "cpu", "triton"):
            raise ValueError(f"experts.backend is {self.backend!r}, it must be auto, reference, cpu or triton")


@dataclass(frozen=True, slots=True)
class WeightsConfig:
    """In what form weights stay in memory.

    Args:
        resident: for matrices that are stored in blocks with scales (FP8, MXFP4). packed keeps the published bytes and
            decodes them when they are used, dequantized decodes them once, auto decodes where memory allows. Others are
            kept in the model's dtype [-; one of auto, packed, dequantized]
    """

    resident: str = "auto"

    def __post_init__(self) -> None:
        if self.resident not in ("auto", "packed", "dequantized"):
            raise ValueError(f"weights.resident is {self.resident!r}, it must be auto, packed or dequantized")

    @property
    def keep_packed(self) -> bool:
        """Whether such matrices stay as published."""
        assert self.resident != "auto", "whoever starts the processes resolves weights.resident first"
        return self.resident == "packed"
