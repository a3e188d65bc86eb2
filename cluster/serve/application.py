"""The Serve application: a deployment for each shard that may ever be, the Router, and the Front as ingress.

`build` is also an application builder for Serve's own YAML (`import_path: cluster.serve.application:build`, `args`:
the sections of our configuration).
"""

import logging
from dataclasses import replace
from typing import Any

import ray
from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

from cluster.config import ClusterConfig, config_from, with_environment
from cluster.planner.config_resolver import resolve_for_nodes
from cluster.planner.model import ServedModel, open_model
from cluster.planner.moving import shard_budget
from cluster.planner.start_placement import with_placement
from cluster.processes.nodes import bytes_for_each
from cluster.processes.process import environment
from cluster.processes.ray_calls import call
from cluster.processes.service_registry import registry_name
from cluster.serve.balancer_replica import BalancerReplica
from cluster.serve.deployments import deploy
from cluster.serve.front_replica import FrontReplica
from cluster.serve.router_replica import RouterReplica
from cluster.serve.security import fixed_secret
from cluster.serve.shard_policy import ShardPolicy
from cluster.serve.shard_replica import ShardReplica
from cluster.serve.update.surge import NO_SURGE, Surge, surge_of
from experts.host.memory import host_bytes
from experts.placement import even_placement

log = logging.getLogger(__name__)


def build(args: dict[str, Any]) -> serve.Application:
    """Build the application from the configuration as plain data.

    The secret that peers must prove is in cluster.secret_file, or the environment's EXPERTMESH_SECRET, or drawn anew.
    The API's key is better in EXPERTMESH_API_KEY than in `args`, which Ray's dashboard shows.

    Raises:
        CheckpointError: a tensor of the checkpoint is missing, too many or of a wrong shape; see also `build_app`.
    """
    config = config_from(with_environment(args))
    # Serve's YAML is deployed on an existing Ray cluster, whose nodes we have not measured.
    config = replace(config, cluster=replace(config.cluster, address=config.cluster.address or "auto"))
    model = open_model(config.model, config.weights, verify=True, computes_here=False)
    for notice in model.plan.notices:
        log.warning("%s", notice)
    config = resolved(config)
    return build_app(config, surge=surge_of(config, model))


def resolved(config: ClusterConfig) -> ClusterConfig:
    """The configuration for a Ray that is joined, with `weights.resident` resolved by what its nodes have."""
    model = open_model(config.model, config.weights, computes_here=False)
    processes = config.experts.shards + config.cluster.routers
    joined = ray.is_initialized()
    there = bytes_for_each(call(ray.nodes, "the list of its nodes"), processes) if joined else host_bytes()
    return resolve_for_nodes(config, model, there)


def build_app(config: ClusterConfig, front_node: str = "", surge: Surge = NO_SURGE) -> serve.Application:
    """Build the application.

    Args:
        front_node: address of the node that the Front must run on; empty leaves it to Ray.
        surge: which processes are to be there before those that they replace end.

    Raises:
        CheckpointError: the checkpoint cannot be served.
        ValueError: more shards than experts, or more copies than shards; or the placement file does not fit (see
            `with_placement`).
    """
    assert config.weights.resident != "auto", "whoever starts the processes resolves weights.resident first"
    model = open_model(config.model, config.weights, computes_here=not config.cluster.address)
    # For its refusal: the processes would meet it one by one, and Serve would start each again.
    even_placement(model.plan.spec.gate.experts, config.experts.shards, config.experts.copies)
    config = with_placement(config, model.plan.spec.moe_layers, model.plan.spec.gate.experts)
    # The digest is computed once, here, and handed to all: two that differ were built from different things.
    data = config.to_dict()
    credentials = {"secret": fixed_secret(config), "digest": model.digest()}
    shards, routers = _shards(config, model, surge), _routers(config, model, surge)
    # What it does not use makes Serve start the others with it.
    needed = (routers.bind(data, **credentials), *(one.bind(data, i, **credentials) for i, one in enumerate(shards)))
    balancer = _balancer(config, model, data)
    return _fronts(config, front_node, surge).bind(
        data, credentials["secret"], credentials["digest"], *needed, balancer=balancer, api_key=config.front.api_key
    )


def _shards(config: ClusterConfig, model: ServedModel, surge: Surge) -> list[Any]:
    """A deployment for each shard that there is room for."""
    return [
        deploy(
            ShardReplica,
            config.cluster,
            name=f"Shard-{index}",
            ray_actor_options=_computing(config, model, config.cluster.shard_resource),
            max_surge_percent=_percent(surge.shards),
            autoscaling_config=_coming_and_going(index, config),
        )
        for index in range(config.experts.room(model.plan.spec.gate.experts))
    ]


def _routers(config: ClusterConfig, model: ServedModel, surge: Surge) -> Any:
    return deploy(
        RouterReplica,
        config.cluster,
        name="Router",
        num_replicas=config.cluster.routers,
        ray_actor_options=_computing(config, model, config.cluster.router_resource),
        max_surge_percent=_percent(surge.routers),
    )


def _fronts(config: ClusterConfig, node: str, surge: Surge) -> Any:
    # Ray gives each node a resource of this name; next to nothing of it pins a process there.
    pin = {f"node:{node}": 0.001} if node else {}
    pin |= _one_of(config.cluster.front_resource)["resources"]
    return deploy(
        FrontReplica,
        config.cluster,
        name="Front",
        num_replicas=config.cluster.fronts,
        ray_actor_options={"num_cpus": 0, "resources": pin, "runtime_env": _runtime_env()},
        max_ongoing_requests=64,
        max_surge_percent=_percent(surge.fronts),
    )


def _balancer(config: ClusterConfig, model: ServedModel, data: dict[str, Any]) -> Any:
    """Anywhere: it needs neither the model nor the data plane."""
    layers = model.plan.spec.moe_layers
    actor = {"num_cpus": 0, "runtime_env": _runtime_env()} | _one_of("")
    return deploy(BalancerReplica, config.cluster, name="Balancer", ray_actor_options=actor).bind(
        data,
        list(layers),
        model.plan.spec.gate.experts,
        model.shard_bytes(1) // max(1, len(layers)),
        shard_budget(config, model) // model.shard_bytes(1),
    )


def _computing(config: ClusterConfig, model: ServedModel, resource: str) -> dict[str, Any]:
    """The actor options of a process that computes, and takes one of `resource`, if that is named."""
    gpus = config.cluster.gpus_per_process if model.device.type == "cuda" else 0.0
    return {"num_cpus": 1, "num_gpus": gpus, "runtime_env": _runtime_env()} | _one_of(resource)


def _runtime_env() -> dict[str, Any]:
    return {"env_vars": environment()}


def _coming_and_going(index: int, config: ClusterConfig) -> AutoscalingConfig:
    """One process for a shard that the cluster starts with; the others come, and all may go, as the registry says.

    Each is a deployment from the start: adding one later would deploy the application anew, which replaces all.
    """
    settings = {"registry": registry_name(config.cluster.application), "index": index}
    return AutoscalingConfig(
        min_replicas=0,
        max_replicas=1,
        # Without it one that has come stays when the application is deployed anew.
        initial_replicas=1 if index < config.experts.shards else None,
        upscale_delay_s=0.0,
        downscale_delay_s=0.0,
        policy=AutoscalingPolicy(policy_function=ShardPolicy, policy_kwargs=settings),
    )


def _percent(first: bool) -> int:
    """How many processes more than configured an update may start at once: all, or none."""
    return 100 if first else 0


def _one_of(resource: str) -> dict[str, dict[str, float]]:
    """The actor options that take one of a custom resource; an empty name takes none."""
    return {"resources": {resource: 1.0} if resource else {}}
