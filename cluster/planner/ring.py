"""In which order shards stand in a ring, so that the copies of an expert live on different nodes. Pure functions.

`experts.placement.even_placement` gives a run of experts to a shard and to those behind it: N copies of it are on N
neighbours. So neighbours should not share a node.
"""

from collections import Counter
from collections.abc import Sequence


def ring_over_nodes(nodes: Sequence[str], copies: int) -> tuple[int, ...]:
    """Return an order of the shards in which any `copies` neighbours are on different nodes, wherever that is possible.

    It is if no node has more than S / copies of the S shards. Else any w neighbours are on different nodes, with the
    largest w for which S / w suffices, and few runs of experts have all copies on one node. Shards of one node stay in
    order.

    Args:
        nodes: the node of each shard.
        copies: from 1 to S.
    """
    shards, sizes = len(nodes), Counter(nodes)
    # Shards of a node follow each other, so that dealing them out parts them as far as it can; the largest nodes first.
    sorted_S = sorted(range(shards), key=lambda shard: (-sizes[nodes[shard]], nodes.index(nodes[shard]), shard))
    hands = max(shards // copies, max(sizes.values()))
    rings = [tuple(range(shards)), _dealt(sorted_S, hands, spread=False), _dealt(sorted_S, hands, spread=True)]
    return max(rings, key=lambda ring: _spread([nodes[shard] for shard in ring], copies))


def _dealt(cards: Sequence[int], hands: int, spread: bool) -> tuple[int, ...]:
    """Deal the cards to the hands in turn and join the hands; the last round, if short, to the first or to hands apart.

    A node with as many shards as there are hands has one in the same place of each. One with fewer has them in hands
    next to each other or in places that are further apart.
    """
    whole, rest = divmod(len(cards), hands)
    last = [place * hands // rest for place in range(rest)] if spread and rest else list(range(rest))
    targets = [*range(hands)] * whole + last
    dealt: list[list[int]] = [[] for _ in range(hands)]
    for card, hand in zip(cards, targets, strict=True):
        dealt[hand].append(card)
    return tuple(card for hand in dealt for card in hand)


def _spread(places: Sequence[str], copies: int) -> tuple[int, int, int]:
    """The nodes of the run that is on the fewest, how many others there are, and all runs' nodes added up."""
    around = [*places, *places]
    nodes = [len(set(around[place : place + copies])) for place in range(len(places))]
    return min(nodes), -nodes.count(min(nodes)), sum(nodes)
