"""The routing of a request's positions as the API returns it."""

from collections.abc import Iterator

from router_service.protocol import inference_pb2 as pb
from router_service.protocol.routing_part import DROPPED, RoutingArrays, RoutingPart, arrays_of


def routing_of(part: RoutingPart) -> Iterator[pb.TokenRouting]:
    """Yield each position's routing; what is not taken is not built."""
    arrays = arrays_of(part)
    return (_token(arrays, number) for number in range(part.positions))


def _token(arrays: RoutingArrays, number: int) -> pb.TokenRouting:
    # One conversion for all layers: of each layer's row alone it would cost as much as the message.
    columns = zip(
        arrays.layers,
        arrays.experts_PLK[number].tolist(),
        arrays.weights_PLK[number].tolist(),
        arrays.shards_PLK[number].tolist(),
        arrays.scored_experts_PLN[number].tolist(),
        arrays.scores_PLN[number].tolist(),
        strict=True,
    )
    return pb.TokenRouting(layers=[_layer(*column) for column in columns])


def _layer(
    layer: int, experts: list[int], weights: list[float], shards: list[int], scored: list[int], scores: list[float]
) -> pb.LayerRouting:
    if DROPPED in experts:
        kept = [place for place, expert in enumerate(experts) if expert != DROPPED]
        experts, weights = [experts[place] for place in kept], [weights[place] for place in kept]
        shards = [shards[place] for place in kept]
    return pb.LayerRouting(
        layer=layer, experts=experts, weights=weights, shards=shards, scored_experts=scored, scores=scores
    )
