"""The handshake's payloads: HMAC-SHA256 over both sides' fresh nonces, the server's incarnation and the digest.

    PROOF    client nonce, then for each of the client's secrets: its digest, sealed, and HMAC(secret, "proof" ...)
    WELCOME  HMAC(secret, "welcome" ...) with the secret that both know; it covers the whole PROOF
    REFUSAL  the server's digest, sealed, and HMAC(secret, "refusal" ...); it covers the whole PROOF too

A digest is sealed by XOR with HMAC(secret, label, nonces ...), a pad that is used once, as the nonces are fresh. A peer
that does not know the secret learns neither the other's digest nor whether its own was right.
"""

import hmac
from dataclasses import dataclass

from experts.transport.frame import FrameError
from experts.transport.trust.credentials import DIGEST_BYTES
from experts.transport.trust.secret import MAX_SECRETS, Secret, good_secrets

NONCE_BYTES = 32
MAC_BYTES = 32
ENTRY_BYTES = DIGEST_BYTES + MAC_BYTES
# In every MAC, so that one made for another purpose or version with the same secret proves nothing here.
CONTEXT = b"expertmesh handshake 2 "


@dataclass(frozen=True, slots=True)
class Meeting:
    """What both sides of one handshake know: the serving process's incarnation and both nonces of 32 bytes."""

    incarnation: int
    challenge: bytes
    nonce: bytes

    def mac(self, secret: bytes, label: bytes, *parts: bytes) -> bytes:
        """HMAC over all of it and `parts`, of which only the last may vary in length."""
        ours = (self.incarnation.to_bytes(8, "little"), self.challenge, self.nonce)
        return hmac.digest(secret, b"".join((CONTEXT, label, b"\0", *ours, *parts)), "sha256")

    def seal(self, secret: bytes, label: bytes, digest: bytes) -> bytes:
        """Encrypt a digest, or decrypt one: XOR is its own inverse."""
        pad = self.mac(secret, label)
        return bytes(a ^ b for a, b in zip(digest, pad, strict=True))


def make_proof(secret: Secret, meeting: Meeting, digest: bytes) -> bytes:
    """Return the PROOF payload of a client whose deployment is `digest`."""
    entries = [
        meeting.seal(known, b"client digest", digest) + meeting.mac(known, b"proof", digest)
        for known in good_secrets(secret)
    ]
    return meeting.nonce + b"".join(entries)


def open_proof(secret: Secret, incarnation: int, challenge: bytes, proof: bytes) -> tuple[Meeting, bytes, bytes]:
    """Verify a PROOF payload; return the meeting, the secret that both know, and the client's digest.

    Raises:
        FrameError: the client does not know the secret.
    """
    meeting = Meeting(incarnation, challenge, proof[:NONCE_BYTES])
    entries = _entries(proof)
    for known in good_secrets(secret):
        for sealed, mac in entries:
            digest = meeting.seal(known, b"client digest", sealed)
            # Constant time: how long a comparison takes must not tell how many bytes were right.
            if hmac.compare_digest(mac, meeting.mac(known, b"proof", digest)):
                return meeting, known, digest
    raise FrameError("secret", "the peer could not prove the deployment's secret")


def make_welcome(known: bytes, meeting: Meeting, digest: bytes, proof: bytes) -> bytes:
    """Return the WELCOME payload that answers `proof`."""
    return meeting.mac(known, b"welcome", digest, proof)


def check_welcome(secret: Secret, meeting: Meeting, digest: bytes, proof: bytes, welcome: bytes) -> None:
    """Verify a WELCOME payload.

    Raises:
        FrameError: the server does not know the secret, or has read another proof.
    """
    expected = [make_welcome(known, meeting, digest, proof) for known in good_secrets(secret)]
    if not any(hmac.compare_digest(welcome, mac) for mac in expected):
        raise _unproven()


def make_refusal(known: bytes, meeting: Meeting, digest: bytes, proof: bytes) -> bytes:
    """Return the REFUSAL payload of a server whose deployment is `digest`."""
    return meeting.seal(known, b"server digest", digest) + meeting.mac(known, b"refusal", digest, proof)


def open_refusal(secret: Secret, meeting: Meeting, proof: bytes, refusal: bytes) -> bytes:
    """Verify a REFUSAL payload; return the server's digest.

    Raises:
        FrameError: the server does not know the secret, or has read another proof.
    """
    sealed, mac = refusal[:DIGEST_BYTES], refusal[DIGEST_BYTES:]
    for known in good_secrets(secret) if len(refusal) == ENTRY_BYTES else ():
        digest = meeting.seal(known, b"server digest", sealed)
        if hmac.compare_digest(mac, meeting.mac(known, b"refusal", digest, proof)):
            return digest
    raise _unproven()


def _entries(proof: bytes) -> list[tuple[bytes, bytes]]:
    """The sealed digest and the proof for each secret; none of what has another length."""
    rest = proof[NONCE_BYTES:]
    if len(rest) % ENTRY_BYTES or len(rest) > MAX_SECRETS * ENTRY_BYTES:
        return []
    entries = [rest[begin : begin + ENTRY_BYTES] for begin in range(0, len(rest), ENTRY_BYTES)]
    return [(entry[:DIGEST_BYTES], entry[DIGEST_BYTES:]) for entry in entries]


def _unproven() -> FrameError:
    return FrameError("secret", "the server could not prove the deployment's secret")
