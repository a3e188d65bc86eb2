"""Which experts each token went to, an extension: see TokenRouting in inference.proto."""

from collections.abc import Iterable

import msgspec

from router_service.protocol import inference_pb2 as pb


class LayerExperts(msgspec.Struct, frozen=True):
    """The experts that computed a token in a layer, with their weights and shards."""

    layer: int
    experts: list[int]
    weights: list[float]
    shards: list[int]


PositionRouting = list[LayerExperts]


def routing_of(positions: Iterable[pb.TokenRouting]) -> list[PositionRouting]:
    """Return the layers of each position, the prompt's first."""
    return [[_layer(layer) for layer in position.layers] for position in positions]


def _layer(layer: pb.LayerRouting) -> LayerExperts:
    return LayerExperts(layer.layer, list(layer.experts), list(layer.weights), list(layer.shards))
