"""What `serve` checks before any process is started or any port is opened: the checkpoint and the ports."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

from cluster.config import ClusterConfig, ConfigError
from router_service.front.config import FrontConfig

if TYPE_CHECKING:
    from cluster.planner.model import ServedModel

MAX_PORT = 65535


def check_model(config: ClusterConfig) -> "ServedModel":
    """Check the checkpoint's configuration, headers and tokenizer, and the placement to start from; return the model.

    A GPU must be here only where the model is computed here: the nodes of a Ray that is joined have their own.

    Raises:
        CheckpointError: see `open_model` and `load_text_model`.
        ValueError: more shards than experts, a placement file that does not fit, or parsers that there are not.
    """
    # torch takes a second to import, and wrong flags must be answered before that.
    from cluster.planner.model import open_model
    from cluster.planner.start_placement import with_placement
    from experts.placement import even_placement
    from router_service.front.parsing.model_parsers import model_parsers
    from router_service.text.text_model import load_text_model

    model = open_model(config.model, config.weights, verify=True, computes_here=not config.cluster.address)
    even_placement(model.plan.spec.gate.experts, config.experts.shards, config.experts.copies)
    with_placement(config, model.plan.spec.moe_layers, model.plan.spec.gate.experts)
    text = load_text_model(model.plan.checkpoint.path, config.front.chat_template, config.front.template_kwargs)
    model_parsers(model.card().family, text, config.front)
    return model


def check_ports(config: ClusterConfig) -> None:
    """Check that the ports are free on this machine, where the Front will run.

    Raises:
        ConfigError: one is taken, or the address is not this machine's.
    """
    front, fronts = config.front, 1 if config.cluster.address else config.cluster.fronts
    with ExitStack() as opened:  # all at once, so that two keys cannot name one port
        for key, host, port in _ports(front, fronts):
            if port > MAX_PORT:
                raise ConfigError(f"front.{key}: {fronts} Fronts need a port each, and ports end at {MAX_PORT}")
            try:
                # Only a test: the Front opens the port in a process of its own.
                opened.callback(socket.create_server((host, port)).close)
            except OSError as error:
                said = error.strerror or error
                raise ConfigError(f"front.{key}: cannot listen on {host}:{port}: {said}") from error


def _ports(front: FrontConfig, fronts: int) -> Iterator[tuple[str, str, int]]:
    """Key, host and port of everything that `fronts` Fronts of one machine listen on: each has its own metrics port."""
    yield "grpc_port", front.host, front.grpc_port
    if front.metrics_port is not None:
        for place in range(fronts if front.metrics_port else 1):
            yield "metrics_port", front.metrics_host, front.metrics_port + place
    if front.http_port is not None:
        yield "http_port", front.http_host, front.http_port
