"""Count-based language models that the network must beat: unigram, bigram and trigram over the same tokens.

All are smoothed by interpolation with the next shorter context (Witten and Bell 1991), the unigram with the uniform
distribution: P(w | h) = (c(h, w) + n(h) P(w | shorter h)) / (c(h) + n(h)), with n(h) the distinct tokens seen after h.
"""

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
NAMES = ("unigram", "bigram", "trigram")


def baseline_losses(train: Ids, held_out: Ids, vocab_size: int) -> dict[str, float]:
    """Mean negative log likelihood, nats per token, of every held-out token that has two tokens before it."""
    probabilities = np.full(len(held_out), 1.0 / vocab_size)
    losses = {}
    for order, name in enumerate(NAMES, start=1):
        probabilities = interpolated(train, held_out, order, vocab_size, probabilities)
        losses[name] = float(-np.log(probabilities[len(NAMES) - 1 :]).mean())
    return losses


def interpolated(train: Ids, held_out: Ids, order: int, vocab_size: int, shorter: NDArray[np.float64]) -> NDArray:
    """P(token | the order - 1 tokens before it) at every held-out position; `shorter` is the same with one less."""
    grams, counts = np.unique(ngram_codes(train, order, vocab_size), return_counts=True)
    contexts, first, distinct = np.unique(grams // vocab_size, return_index=True, return_counts=True)
    totals = np.add.reduceat(counts, first)
    seen = ngram_codes(held_out, order, vocab_size)
    gram_count = looked_up(grams, counts, seen)
    total, followers = (looked_up(contexts, values, seen // vocab_size) for values in (totals, distinct))
    known = shorter[order - 1 :]
    mixed = np.where(total > 0, (gram_count + followers * known) / np.maximum(total + followers, 1), known)
    return np.concatenate((shorter[: order - 1], mixed))


def ngram_codes(tokens: Ids, order: int, vocab_size: int) -> Ids:
    """Every run of `order` tokens as one number, the oldest token the most significant digit."""
    codes = np.zeros(len(tokens) - order + 1, dtype=np.int64)
    for place in range(order):
        codes = codes * vocab_size + tokens[place : place + len(codes)]
    return codes


def looked_up(keys: Ids, values: Ids, wanted: Ids) -> Ids:
    """The value of each wanted key, 0 where the sorted keys lack it."""
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)
