"""Whether experts specialize in domains of text: pure functions of counts.

For each MoE layer, I(D; E) is the mutual information between the domain of a token and the experts that it is sent to.
Reported is I / min(H(D), H(E)), which is at most 1 (Kvalseth 1987; NMI_min of Vinh, Epps and Bailey, JMLR 2010): 0 if
all domains use the experts alike, 1 if no two domains share one.

Counts of few tokens show some information by chance. How much is found by permutation: the domains' labels are
reassigned to blocks of neighbouring tokens (not to single tokens, because neighbours resemble each other whatever their
domain) and the measure is computed again. `excess` is adjusted for chance, (NMI - chance) / (1 - chance), the form of
Hubert and Arabie (1985). A layer's p is the share of permutations in which the best of all layers exceeds its own
chance by as much (Westfall and Young 1993), which corrects for testing many layers.

B blocks, D domains, E experts, L layers, R permutations.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BLOCK_TOKENS = 16
PERMUTATIONS = 400
SIGNIFICANT = 0.05

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Specialization:
    """For each layer [L]: the measure, its value by chance, the excess over chance, and the p-value."""

    nmi_L: Floats
    chance_L: Floats
    excess_L: Floats
    p_L: Floats

    @property
    def beyond_chance_L(self) -> NDArray[np.bool_]:
        """The layers whose experts distinguish the domains significantly."""
        beyond: NDArray[np.bool_] = (self.p_L < SIGNIFICANT) & (self.excess_L > 0)
        return beyond


def normalized_information(counts_XDE: Floats | Counts) -> Floats:
    """I(D; E) / min(H(D), H(E)) of each table of counts [..., D, E]; 0 where one of the two has no entropy."""
    total = counts_XDE.sum(axis=(-2, -1), keepdims=True)
    joint_XDE = counts_XDE / np.maximum(total, 1)
    domain_X, expert_X = (_entropy(joint_XDE.sum(axis=axis)) for axis in (-1, -2))
    information_X = domain_X + expert_X - _entropy(joint_XDE.reshape(*joint_XDE.shape[:-2], -1))
    most_X = np.minimum(domain_X, expert_X)
    ratio: Floats = np.divide(information_X, most_X, out=np.zeros_like(most_X), where=most_X > 1e-12)
    return np.clip(ratio, 0.0, 1.0)


def specialization(
    blocks_LBE: Counts, domain_of_B: Sequence[int], permutations: int = PERMUTATIONS, seed: int = 0
) -> Specialization:
    """Measure each layer's specialization from its expert counts by block, given each block's domain."""
    labels_B = np.asarray(domain_of_B)
    draw = np.random.default_rng(seed)
    dealt_RB = np.stack([labels_B, *(draw.permutation(labels_B) for _ in range(permutations))])
    is_RDB = (dealt_RB[:, None, :] == np.unique(labels_B)[:, None]).astype(np.float64)
    nmi_RL = np.stack([normalized_information(is_RDB @ blocks_BE) for blocks_BE in blocks_LBE], axis=1)
    nmi_L, chance_L = nmi_RL[0], nmi_RL[1:].mean(axis=0)
    highest_R = (nmi_RL[1:] - chance_L).max(axis=1)
    as_much_L = (highest_R[:, None] >= (nmi_L - chance_L) - 1e-12).sum(axis=0)
    room_L = np.maximum(1.0 - chance_L, 1e-12)
    # The observed labels count as one of the permutations, so p is never 0.
    return Specialization(
        nmi_L=nmi_L,
        chance_L=chance_L,
        excess_L=(nmi_L - chance_L) / room_L,
        p_L=(1 + as_much_L) / (1 + permutations),
    )


def block_counts(expert_ids_TLK: Counts, experts: int) -> Counts:
    """Count the experts of each block of 16 neighbouring tokens, [L, B, E]; a last incomplete block is left out."""
    tokens, layers, chosen = expert_ids_TLK.shape
    blocks = tokens // BLOCK_TOKENS
    blocked_BNLK = expert_ids_TLK[: blocks * BLOCK_TOKENS].reshape(blocks, BLOCK_TOKENS, layers, chosen)
    ids_LBN = blocked_BNLK.transpose(2, 0, 1, 3).reshape(layers, blocks, -1)
    counts_LBE = np.zeros((layers, blocks, experts), dtype=np.int64)
    layer, block = np.arange(layers)[:, None, None], np.arange(blocks)[None, :, None]
    np.add.at(counts_LBE, (layer, block, ids_LBN), 1)
    return counts_LBE


def _entropy(share_XN: Floats) -> Floats:
    logs = np.log(share_XN, out=np.zeros_like(share_XN), where=share_XN > 0)
    entropy: Floats = -(share_XN * logs).sum(axis=-1)
    return entropy
