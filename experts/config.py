"""Settings of the experts' side: how many shards, and how they are reached."""

from dataclasses import dataclass
from typing import Annotated, Literal

from experts.host.bounds import Seconds, Threads, check_settings, setting

# Room to grow costs each router a few numbers a shard.
MOST_TIMES = 4
Backend = Literal["auto", "native", "cpu", "reference", "triton"]


@dataclass(frozen=True, slots=True)
class ExpertsConfig:
    """Shards and their data plane.

    Args:
        shards: processes that the experts of each layer are spread over
        copies: how many shards hold each expert, on different nodes where there are several: when a shard fails, the
            others answer in its place. Each copy takes the memory of all experts once more
        most_shards: how many shards there may be while the cluster runs, see `expertmesh scale`; 0 allows four times
            `shards`, but never more than there are experts
        call_timeout_seconds: a shard whose computation has got no further for so long counts as hung, although it shows
            signs of life; one that is only slow is waited for until a request's deadline
        checksum: whether each frame carries a CRC-32 of its payload, which costs about a second per 3 GB
        exact_combine: whether shards answer with a row for each (token, expert), which the router adds up in the
            token's own order of experts: then a result does not depend on how experts are placed and moved, on shards
            or on who answered, if the backend computes each row by itself, as native does. More bytes come back than
            with a sum for each token, which costs decoding nothing measurable and prompts 4 to 7% on one machine
        backend: what computes: native is C++ on a CPU, cpu is torch there, triton is for GPUs, reference is slow;
            auto takes triton on a GPU, and on a CPU native where it was built
        threads: CPU threads of each shard's computation; 0 shares out the cores that it may use among the shards of its
            node (a pod is one)
    """

    shards: Annotated[int, setting("processes", description="at most the number of experts", ge=1)] = 2
    copies: Annotated[int, setting("copies of each expert", description="at most the number of shards", ge=1)] = 1
    most_shards: Annotated[int, setting("processes", description="0, or at least the number of shards", ge=0)] = 0
    call_timeout_seconds: Seconds = 10.0
    checksum: bool = False
    exact_combine: bool = True
    backend: Backend = "auto"
    threads: Threads = 0

    def __post_init__(self) -> None:
        check_settings("experts", self)
        if 0 < self.most_shards < self.shards:
            raise ValueError(
                f"experts.most_shards is {self.most_shards}, it must be 0 or at least experts.shards, {self.shards}"
            )
        if self.copies > self.shards:
            raise ValueError(
                f"experts.copies is {self.copies}, it must be at most experts.shards, which is {self.shards}"
            )

    def room(self, experts: int) -> int:
        """How many shards there may ever be, for a model with so many experts in a layer."""
        return min(experts, self.most_shards or MOST_TIMES * self.shards)


Residence = Literal["auto", "packed", "dequantized"]
Quantize = Literal["none", "int8", "int4"]


@dataclass(frozen=True, slots=True)
class WeightsConfig:
    """In what form weights stay in memory.

    Args:
        resident: for matrices that are stored with scales (FP8, INT8, FP4). packed keeps the published bytes and
            decodes them when they are used, dequantized decodes them once, auto is packed with the native kernels,
            which are faster so, and else decodes where memory allows. Others are kept in the model's dtype
        quantize: what matrices that are stored in floats become when they are loaded: codes of 8 or 4 bits with a scale
            for each group of inputs. It costs quality; matrices that are stored in blocks with scales stay as they are
        quantize_group: inputs that share a scale; 0 takes 32 for int4 and 128 for int8
        quantize_scope: whether only the experts are quantized, or the router's projections too; embedding, head, gates
            and norms never are
    """

    resident: Residence = "auto"
    quantize: Quantize = "none"
    quantize_group: Literal[0, 32, 128] = 0
    quantize_scope: Literal["experts", "all"] = "experts"

    def __post_init__(self) -> None:
        check_settings("weights", self)

    @property
    def keep_packed(self) -> bool:
        """Whether such matrices stay as published."""
        assert self.resident != "auto", "whoever starts the processes resolves weights.resident first"
        return self.resident == "packed"
