"""The Serve application: a deployment for each shard, the Router, and the Front as ingress.

`build` is also an application builder for Serve's own YAML (`import_path: cluster.app:build`, `args`: the sections
of our configuration).
"""

from typing import Any

from ray import serve

from cluster.config import ClusterConfig, config_from
from cluster.deployments import FrontReplica, RouterReplica, ShardReplica, deploy
from cluster.model import open_model
from cluster.process import environment
from cluster.security import fixed_secret
from experts.placement import even_placement


def build(args: dict[str, Any]) -> serve.Application:
    """Build the application from the configuration as plain data.

    The secret that peers must prove is in cluster.secret_file, or the environment's EXPERTMESH_SECRET, or drawn anew.
    """
    return build_app(config_from(args))


def build_app(config: ClusterConfig, front_node: str = "") -> serve.Application:
    """Build the application.

    Args:
        front_node: address of the node that the Front must run on; empty leaves it to Ray.

    Raises:
        CheckpointError: the checkpoint cannot be served.
        ValueError: more shards than experts.
    """
    model = open_model(config.model, config.weights)
    even_placement(model.plan.spec.gate.experts, config.experts.shards)
    data, secret = config.to_dict(), fixed_secret(config)
    gpus = config.cluster.gpus_per_process if model.device.type == "cuda" else 0.0
    compute = {"num_cpus": 1, "num_gpus": gpus, "runtime_env": {"env_vars": environment()}}
    shards = [
        deploy(ShardReplica, name=f"Shard-{index}", ray_actor_options=compute).bind(data, index, secret)
        for index in range(config.experts.shards)
    ]
    router = deploy(RouterReplica, name="Router", num_replicas=config.cluster.routers, ray_actor_options=compute).bind(
        data, secret
    )
    # Ray gives each node a resource of this name; next to nothing of it pins a process there.
    pin = {f"node:{front_node}": 0.001} if front_node else {}
    light = {"num_cpus": 0, "resources": pin, "runtime_env": {"env_vars": environment()}}
    return deploy(FrontReplica, name="Front", ray_actor_options=light, max_ongoing_requests=64).bind(
        data, secret, router, *shards
    )
