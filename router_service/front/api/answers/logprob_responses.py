"""Log-probabilities as clients get them, with each token's text and bytes."""

from router_service.protocol import inference_pb2 as pb
from router_service.protocol.messages import Logprob, TokenLogprobs
from router_service.text.tokenizer import Tokenizer


def logprob_of(entry: TokenLogprobs, tokenizer: Tokenizer) -> pb.TokenLogprob:
    """Return the chosen token with the best ones of its position."""
    chosen = _token(entry.chosen, tokenizer)
    chosen.top.extend(_token(candidate, tokenizer) for candidate in entry.top)
    return chosen


def _token(entry: Logprob, tokenizer: Tokenizer) -> pb.TokenLogprob:
    raw = tokenizer.bytes_of(entry.token_id)
    text = raw.decode("utf-8", errors="replace")
    return pb.TokenLogprob(token_id=entry.token_id, text=text, raw=raw, logprob=entry.logprob)
