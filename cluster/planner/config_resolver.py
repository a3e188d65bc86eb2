"""Resolves what a configuration leaves open and refuses what does not fit, before a byte of the weights is read."""

from dataclasses import replace
from math import ceil

import torch

from cluster.config import ClusterConfig
from cluster.planner.available_memory import device_bytes, limited
from cluster.planner.memory_plan import (
    CONTROL_BYTES,
    DEVICE_PROCESS_BYTES,
    LEAST_CACHE_TOKENS,
    PROCESS_BYTES,
    Demand,
    DoesNotFitError,
    Forms,
    Room,
    allowed,
    choose,
    refusal,
)
from cluster.planner.model import ServedModel
from cluster.planner.moving import moving_experts
from cluster.planner.quantize import ROUNDED, with_experts_in
from cluster.planner.sizes import experts_bytes, kv_cache_bytes, kv_cache_tokens, packable, router_bytes
from cluster.table import size
from experts.host.memory import host_bytes
from kernels.ops import Backend
from kernels.select import resolve
from router_service.config import EngineConfig
from router_service.models.spec import ModelSpec, TensorMap


def forms_of(
    spec: ModelSpec,
    tensors: TensorMap,
    dtype: torch.dtype,
    on_gpu: bool,
    router: EngineConfig,
    routers: int,
    packed_faster: bool = False,
    copies: int = 1,
    moving: float = 0.0,
) -> Forms:
    """The model's demands in each form; in half precision where it is to be served in float32, and quantized.

    Args:
        moving: experts of each layer that a shard may load beside its own while placements change.
    """

    def demand(dtype: torch.dtype, packed: bool, tensors: TensorMap = tensors) -> Demand:
        return Demand(
            experts=spec.gate.experts,
            expert_bytes=experts_bytes(tensors, 1, dtype, packed),
            router_bytes=router_bytes(tensors, dtype, packed),
            cache_bytes=kv_cache_bytes(spec, router, dtype, cache_tokens(spec, router)),
            process_bytes=DEVICE_PROCESS_BYTES if on_gpu else PROCESS_BYTES,
            control_bytes=0 if on_gpu else CONTROL_BYTES,
            routers=routers,
            copies=copies,
            moving_bytes=ceil(moving * experts_bytes(tensors, 1, dtype, packed)),
        )

    # Suggested only where it helps: half of float32. The other dtypes are that small already.
    half = {"--dtype bfloat16": demand(torch.bfloat16, False)} if dtype is torch.float32 else {}
    rounded = {
        f"--quantize {form}": demand(dtype, False, made)
        for form in ROUNDED
        if (made := with_experts_in(tensors, form)) is not None
    }
    packed = demand(dtype, True) if packable(tensors) else None
    return Forms(demand(dtype, False), packed, half | rounded, packed_faster)


def cache_tokens(spec: ModelSpec, router: EngineConfig) -> int:
    """Tokens that a router's KV cache must hold: as configured, else a context up to 8192."""
    return router.kv_cache_tokens or min(spec.context, LEAST_CACHE_TOKENS)


def demands(config: ClusterConfig, model: ServedModel) -> Forms:
    """The demands of a configured model."""
    plan, device = model.plan, model.device.type
    faster = computes_packed(config.experts.backend, device)
    on_gpu, routers, copies = device == "cuda", config.cluster.routers, config.experts.copies
    # Where nobody but an operator moves experts, a start is not refused for what that would take.
    moving = moving_experts(config) if config.balance.automatic else 0.0
    return forms_of(plan.spec, plan.tensors, model.dtype, on_gpu, config.router, routers, faster, copies, moving)


def computes_packed(backend: str, device_type: str) -> bool:
    """Whether the backend computes from packed weights as they are: the native kernels do, others decode them first."""
    return resolve(Backend(backend), device_type) is Backend.NATIVE


def room_here(config: ClusterConfig, on_gpu: bool) -> Room:
    """The memory of this machine: its GPUs, one for each process, or the host's, which all processes share."""
    limit = config.cluster.memory_limit_gib
    if not on_gpu:
        return Room(bytes=limited(host_bytes(), limit), shared=True, where=f"here{_limit_note(limit)}")
    share = min(1.0, config.cluster.gpus_per_process)
    available = int(limited(device_bytes(), limit) * share)
    return Room(bytes=available, shared=False, where=f"on a GPU for each{_limit_note(limit)}")


def resolve_here(config: ClusterConfig, model: ServedModel) -> ClusterConfig:
    """The configuration with `weights.resident` resolved, for a cluster on this machine alone.

    A memory limit is kept by the KV cache too, which else takes its part of all that is available.

    Raises:
        DoesNotFitError: the model does not fit in its memory.
    """
    room, forms = room_here(config, model.device.type == "cuda"), demands(config, model)
    form = choose(config.weights.resident, forms, room, config.experts.shards)
    router = config.router
    if config.cluster.memory_limit_gib and not router.kv_cache_tokens:
        router = replace(router, kv_cache_tokens=_tokens_within(config, model, room, forms.of(form)))
    return replace(config, weights=replace(config.weights, resident=form), router=router)


def _tokens_within(config: ClusterConfig, model: ServedModel, room: Room, demand: Demand) -> int:
    """Tokens of each router's KV cache: the least, and what `router.kv_memory_fraction` of the rest holds."""
    spec, router = model.plan.spec, config.router
    rest_bytes = room.bytes - (demand.together(config.experts.shards) if room.shared else demand.router)
    more_bytes = int(rest_bytes * router.kv_memory_fraction) // (demand.routers if room.shared else 1)
    return kv_cache_tokens(spec, router, model.dtype, demand.cache_bytes + more_bytes)


def resolve_for_nodes(config: ClusterConfig, model: ServedModel, node_bytes: int) -> ClusterConfig:
    """As `resolve_here`, for a cluster of nodes that have at least `node_bytes` for each process.

    Never refuses: each process looks at its own node before it loads (see `check_process`).
    """
    forms = demands(config, model)
    available = device_bytes() if model.device.type == "cuda" else node_bytes
    room = Room(bytes=limited(available, config.cluster.memory_limit_gib), shared=False, where="on the smallest node")
    try:
        form = choose(config.weights.resident, forms, room, config.experts.shards)
    except DoesNotFitError:  # by the smallest node; the processes may run on larger ones
        form = allowed(config.weights.resident, forms)[-1]
    return replace(config, weights=replace(config.weights, resident=form))


def check_process(config: ClusterConfig, model: ServedModel, role: str) -> None:
    """Compare what this process (`shard` or `router`) will need with what its node, or its GPU, has.

    Raises:
        DoesNotFitError: it is more.
    """
    forms, form, shards = demands(config, model), config.weights.resident, config.experts.shards
    limit, on_gpu = config.cluster.memory_limit_gib, model.device.type == "cuda"
    available = limited(device_bytes() if on_gpu else host_bytes(), limit)
    need = forms.of(form).shard(shards) if role == "shard" else forms.of(form).router
    if need > available:
        where = f"{'on the GPU' if on_gpu else 'on the node'} of a {role} that needs {size(need)}{_limit_note(limit)}"
        raise DoesNotFitError(refusal(form, forms, Room(bytes=available, shared=False, where=where), shards))


def _limit_note(limit_gib: float) -> str:
    return f" (cluster.memory_limit_gib is {limit_gib:g})" if limit_gib else ""
