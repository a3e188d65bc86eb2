"""Log-probabilities of tokens under the model: before logit bias, penalties, temperature and filters. R rows."""

from collections.abc import Sequence

import torch
from torch import Tensor

from router_service.engine.sampling.filters import best_candidates
from router_service.protocol.messages import Logprob, TokenLogprobs


def score_tokens(logits_RV: Tensor, tokens: Sequence[int], counts: Sequence[int]) -> list[TokenLogprobs]:
    """Return for each row the log-probability of its token, and of its `counts` best tokens, from float32 logits.

    Of equal logits the lower id comes first, so a row's best do not depend on its neighbours.
    """
    logprobs_RV = logits_RV.log_softmax(-1)
    ids_R1 = torch.tensor(tokens, device=logits_RV.device)[:, None]
    chosen = logprobs_RV.gather(1, ids_R1).squeeze(1).tolist()
    best_RN = best_candidates(logits_RV, max(counts))
    best, values = best_RN.tolist(), logprobs_RV.gather(1, best_RN).tolist()
    return [
        TokenLogprobs(Logprob(token, own), list(map(Logprob, ids[:count], row[:count])))
        for token, own, ids, row, count in zip(tokens, chosen, best, values, counts, strict=True)
    ]
