"""Mutual proof of the deployment's secret and digest (RFC 2104, challenge-response), as a machine without sockets.

    server -> client  CHALLENGE  server nonce (32 bytes); the header's incarnation names the server process
    client -> server  PROOF      client nonce, and what proves each of its secrets and its digest
    server -> client  WELCOME    what proves the secret that both know, to a client of the same digest; or
                      REFUSAL    the same and the server's digest, to a client of another

While a secret is rotated a process knows two. Processes read the new one at different moments, so a client proves all
that it knows, the newest first: whichever side is ahead, they share one.

A `Handshake` does no I/O, so that blocking sockets and asyncio streams share it. Its frames carry no
checksum, the proofs cover them; a header that differs in any byte from ours is refused.
"""

import secrets
from collections.abc import Generator
from dataclasses import dataclass

from experts.transport.frame import HEADER, FrameError, Kind, pack_header, parse_header
from experts.transport.trust.credentials import Credentials, short
from experts.transport.trust.proof import (
    NONCE_BYTES,
    Meeting,
    check_welcome,
    make_proof,
    make_refusal,
    make_welcome,
    open_proof,
    open_refusal,
)

# A PROOF of two secrets has 160 bytes. Small, as anyone who can connect may send one.
MAX_PAYLOAD_BYTES = 256


@dataclass(frozen=True, slots=True)
class Turn:
    """Send `out`, then read exactly `want` bytes, which are the rest of a frame if `within` one."""

    out: bytes
    want: int = 0
    within: bool = False


Steps = Generator[Turn, bytes, bool]


class Handshake:
    """One side of a handshake. Until it is `proven`: carry out `turn`, and call `advance` with what was read."""

    def __init__(self, steps: Steps) -> None:
        self.proven = False
        self._steps = steps
        self.turn = next(steps)

    def advance(self, data: bytes) -> None:
        """Take the bytes that the turn wanted; then the peer is proven, or there is a new turn.

        Raises:
            FrameError: the peer failed to authenticate, or is of another deployment (reason `digest`).
        """
        try:
            self.turn = self._steps.send(data)
        except StopIteration as end:
            if not end.value:
                raise RuntimeError("this handshake has failed before") from None
            self.proven = True


def client_handshake(credentials: Credentials, incarnation: int) -> Handshake:
    """The connecting side, towards the process that `incarnation` names."""
    return Handshake(_client(credentials, incarnation))


def server_handshake(credentials: Credentials, incarnation: int) -> Handshake:
    """The accepting side."""
    return Handshake(_server(credentials, incarnation))


def _client(ours: Credentials, incarnation: int) -> Steps:
    _, challenge = yield from _receive(b"", incarnation, Kind.CHALLENGE)
    if len(challenge) != NONCE_BYTES:
        raise FrameError("handshake", f"a challenge has {NONCE_BYTES} bytes, not {len(challenge)}")
    meeting = Meeting(incarnation, challenge, _new_nonce())
    proof = make_proof(ours.secret, meeting, ours.digest)
    out = _frame(Kind.PROOF, incarnation, proof)
    kind, reply = yield from _receive(out, incarnation, Kind.WELCOME, Kind.REFUSAL)
    if kind is Kind.REFUSAL:
        raise _mismatch(ours.digest, open_refusal(ours.secret, meeting, proof, reply))
    check_welcome(ours.secret, meeting, ours.digest, proof, reply)
    return True


def _server(ours: Credentials, incarnation: int) -> Steps:
    challenge = _new_nonce()
    _, proof = yield from _receive(_frame(Kind.CHALLENGE, incarnation, challenge), incarnation, Kind.PROOF)
    meeting, known, digest = open_proof(ours.secret, incarnation, challenge, proof)
    if digest != ours.digest:
        yield Turn(_frame(Kind.REFUSAL, incarnation, make_refusal(known, meeting, ours.digest, proof)))
        raise _mismatch(ours.digest, digest)
    # The server proves itself last, so it shows nothing to a peer that has not proved the secret.
    yield Turn(_frame(Kind.WELCOME, incarnation, make_welcome(known, meeting, digest, proof)))
    return True


def _receive(out: bytes, incarnation: int, *kinds: Kind) -> Generator[Turn, bytes, tuple[Kind, bytes]]:
    """Send `out`, then read one frame, which must be of one of `kinds`."""
    data = yield Turn(out, HEADER.size)
    header = parse_header(data, MAX_PAYLOAD_BYTES)
    if header.incarnation != incarnation:
        raise FrameError("incarnation", f"a frame for incarnation {header.incarnation}, this is {incarnation}")
    if header.kind not in kinds:
        expected = " or ".join(kind.name for kind in kinds)
        raise FrameError("handshake", f"expected {expected}, the peer sent {header.kind.name}")
    payload = yield Turn(b"", header.length, within=True)
    # The proofs cover payloads only: any freedom in the header would be bytes that nobody has authenticated.
    if data != pack_header(header.kind, incarnation, 0, [payload]):
        raise FrameError("handshake", f"the header of the {header.kind.name} is not as a handshake's must be")
    return header.kind, payload


def _frame(kind: Kind, incarnation: int, payload: bytes) -> bytes:
    return pack_header(kind, incarnation, 0, [payload]) + payload


def _new_nonce() -> bytes:
    return secrets.token_bytes(NONCE_BYTES)


def _mismatch(ours: bytes, theirs: bytes) -> FrameError:
    what = "config.json, the tensors' headers, model.dtype or a key of weights differ"
    todo = "start both from one configuration and one checkpoint, or give each cluster a secret of its own"
    message = f"the peer is of deployment {short(theirs)}, this process of {short(ours)}: {what}; {todo}"
    return FrameError("digest", message)
