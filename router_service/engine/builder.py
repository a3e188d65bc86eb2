"""Builds an engine from a planned model and a transport; the same with and without Ray."""

from collections.abc import Callable

import torch

from experts.config import ExpertsConfig
from experts.host.cores import usable_cores
from experts.host.memory import host_bytes
from experts.host.threads import ComputeThreads, measured_threads
from experts.placement import Placement, even_placement
from experts.pool import ExpertPool
from experts.shard.local import LocalTransport
from experts.shard.shard import load_shard
from experts.transport.base import Transport
from experts.transport.call import Form, most_rows, shared_sizes
from kernels import select
from router_service.config import EngineConfig, Overlap
from router_service.engine.admission.constraints import Constraints
from router_service.engine.cache_size import resolved_limits, sized_groups
from router_service.engine.engine import Engine
from router_service.engine.overlap import OverlapPolicy
from router_service.engine.scheduling.block_manager import BlockManager
from router_service.engine.scheduling.limits import SchedulerLimits
from router_service.engine.scheduling.prefill_budget import PrefillBudget
from router_service.engine.scheduling.scheduler import Scheduler
from router_service.models.backbone import Backbone
from router_service.models.families.registry import ModelPlan
from router_service.models.kv_cache import KVCache
from router_service.models.spec import ModelSpec
from router_service.models.weights import load_router_weights
from router_service.protocol.fallback import Fallback
from router_service.structured.grammars import Grammars
from router_service.text.end_tokens import checkpoint_end_tokens
from router_service.text.tokenizer_files import load_tokenizer

# A small decode batch: with few rows it depends on the machine whether one thread or all are faster.
SAMPLE_ROWS = 8


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a GPU, or available on this host."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else host_bytes()


def build_engine(
    plan: ModelPlan,
    transport: Transport,
    experts: ExpertsConfig,
    config: EngineConfig,
    dtype: torch.dtype,
    device: torch.device,
    keep_packed: bool = False,
    progress: Callable[[int], None] = lambda _: None,
    cache_room: Callable[[torch.device], int] = free_bytes,
    placement: Callable[[], Placement] | None = None,
) -> Engine:
    """Load the router's weights, reserve the KV cache, and connect them to the experts behind `transport`.

    Args:
        progress: called with the bytes of each tensor read, in the form kept.
        cache_room: free bytes on a device; asked once the weights are loaded, if the cache is sized by them. It may
            wait for others that load into the same memory.
        placement: which shards hold which experts; asked last, as it may wait too. An even placement if not given.

    Raises:
        ValueError: a step could have more tokens than a call to a shard carries, or no KV block fits into the memory.
    """
    spec = plan.spec
    bounds = resolved_limits(spec, config)
    exact = experts.exact_combine
    check_calls(spec, bounds, dtype, exact)
    ops = select.ops(experts.backend, device)
    weights = load_router_weights(
        checkpoint=plan.checkpoint,
        params=plan.tensors.router,
        dtype=dtype,
        device=device,
        ops=ops,
        keep_packed=keep_packed,
        progress=progress,
    )
    groups = sized_groups(spec, config, bounds, dtype, lambda: cache_room(device))
    cache = KVCache.empty(spec, [group.blocks * config.block_size for group in groups], dtype, device)
    backbone = Backbone(spec, weights, cache, ops)
    ends = frozenset(checkpoint_end_tokens(plan.checkpoint.path))
    return Engine(
        backbone=backbone,
        pool=ExpertPool(
            transport,
            placement() if placement else starting_placement(experts, spec.gate.experts),
            experts.call_timeout_seconds,
            exact,
            shared_sizes(bounds.token_budget, spec.hidden, dtype, spec.gate.top_k, Form.EACH if exact else Form.SUMS),
        ),
        scheduler=Scheduler(
            bounds,
            BlockManager(groups, config.block_size, config.prefix_caching),
            PrefillBudget(config.target_step_seconds),
        ),
        ops=ops,
        eos_token_ids=ends,
        unavailable_wait_s=config.unavailable_wait_seconds,
        threads=_threads(backbone, config, dtype, device),
        overlap=OverlapPolicy(_overlap(config, transport)),
        default_fallback=Fallback(config.fallback),
        constraints=Constraints(Grammars(lambda: load_tokenizer(plan.checkpoint.path), spec.vocabulary, ends)),
    )


def _overlap(config: EngineConfig, transport: Transport) -> Overlap:
    """Shards in this process compute when their replies are asked for: nothing could run beside them."""
    return "off" if config.overlap == "auto" and isinstance(transport, LocalTransport) else config.overlap


@torch.inference_mode()
def _threads(backbone: Backbone, config: EngineConfig, dtype: torch.dtype, device: torch.device) -> ComputeThreads:
    h_TD = torch.zeros((SAMPLE_ROWS, backbone.spec.hidden), dtype=dtype, device=device)
    most = config.threads or usable_cores()
    return measured_threads(lambda: backbone.first_product(h_TD), most if device.type == "cpu" else 1)


def starting_placement(config: ExpertsConfig, experts: int) -> Placement:
    """The even placement of a cluster that starts, with room for the shards that may come."""
    return even_placement(experts, config.shards, config.copies, room=config.room(experts))


def local_shards(
    plan: ModelPlan, experts: ExpertsConfig, dtype: torch.dtype, device: torch.device, keep_packed: bool = False
) -> LocalTransport:
    """Load all shards into this process."""
    placement = starting_placement(experts, plan.spec.gate.experts)
    ops = select.ops(experts.backend, device)
    shards = {
        index: load_shard(
            index=index,
            placement=placement,
            checkpoint=plan.checkpoint,
            manifest=plan.tensors.experts,
            dtype=dtype,
            device=device,
            ops=ops,
            keep_packed=keep_packed,
        )
        for index in sorted(placement.holding)
    }
    return LocalTransport(shards)


def check_calls(spec: ModelSpec, bounds: SchedulerLimits, dtype: torch.dtype, exact: bool = False) -> None:
    """Check that a step of a full token budget fits into one call to one shard, and so does its reply.

    Raises:
        ValueError: it does not; later, each such step would lose the shard's connection.
    """
    most = most_rows(spec.hidden, dtype, spec.gate.top_k, Form.EACH if exact else Form.SUMS)
    if bounds.token_budget > most:
        instead = " or experts.exact_combine to false" if exact else ""
        raise ValueError(
            f"router.token_budget allows steps of {bounds.token_budget} tokens, and a frame to or from a shard carries "
            f"{most} of this model; set router.token_budget to at most {most}{instead}"
        )
