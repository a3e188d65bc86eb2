"""What a shard's frame says about the call that it answers."""

from experts.transport.base import Event, Refusal, Reply, Sent, Why
from experts.transport.call import reply_bytes, unpack_partial
from experts.transport.control import Busy, Failure, Miss
from experts.transport.frame import HEADER, FrameError, Kind
from experts.transport.shared import SharedRows

REPLIES = (Kind.PARTIALS, Kind.MISS, Kind.BUSY, Kind.FAILURE)


def event_of(sent: Sent, shared: SharedRows | None, kind: Kind, payload: memoryview, now_ns: int) -> Event:
    """The answer to `sent`, of which the last byte came at `now_ns`. Its rows lie in `payload` or in `shared`.

    Raises:
        FrameError: it is no answer to this call.
    """
    return _reply(sent, shared, payload, now_ns) if kind is Kind.PARTIALS else _refusal(sent, kind, payload)


def _reply(sent: Sent, shared: SharedRows | None, payload: memoryview, now_ns: int) -> Reply:
    partial = unpack_partial(payload, shared and shared.replies)
    if (partial.form, *partial.y_ND.shape) != (sent.form, sent.rows, sent.hidden):
        found = f"{tuple(partial.y_ND.shape)} of form {partial.form.name}"
        wanted = f"{(sent.rows, sent.hidden)} of {sent.form.name}"
        raise FrameError("length", f"a reply of {found} where {wanted} was asked for")
    return Reply(sent.shard, sent.sequence, partial, now_ns, HEADER.size + reply_bytes(partial))


def _refusal(sent: Sent, kind: Kind, payload: memoryview) -> Refusal:
    shard, sequence = sent.shard, sent.sequence
    if kind is Kind.MISS:
        miss = Miss.unpacked(payload)
        text = f"shard {shard} does not hold experts {', '.join(map(str, miss.experts))} as of epoch {miss.epoch}"
        return Refusal(shard, sequence, Why.MISS, text)
    if kind is Kind.BUSY:
        retry_s = Busy.unpacked(payload).retry_us / 1e6
        return Refusal(shard, sequence, Why.BUSY, f"shard {shard} is busy", retry_s=retry_s)
    if kind is Kind.FAILURE:
        failure = Failure.unpacked(payload)
        return Refusal(shard, sequence, Why.ERROR, f"shard {shard}: {failure.text}", failure.permanent)
    raise FrameError("kind", f"a shard does not answer calls with {kind.name} frames")
