"""Mutual proof of the deployment's secret: HMAC-SHA256 over both sides' fresh nonces (RFC 2104, challenge-response).

    server -> client  CHALLENGE  server nonce (32 bytes); the header's incarnation names the server process
    client -> server  PROOF      client nonce (32 bytes) + HMAC(secret, "client" ...) for each of its secrets
    server -> client  WELCOME    HMAC(secret, "server" ...) with the secret that both know

While a secret is rotated a process knows two. Processes read the new one at different moments, so a client proves all
that it knows, the newest first: whoever of the two is ahead, they share one.

The functions work on bytes so that blocking sockets and asyncio streams share them.
"""

import hmac
import secrets

from experts.transport.frame import FrameError
from experts.transport.secret import MAX_SECRETS, Secret, good_secrets

NONCE_BYTES = 32
MAC_BYTES = 32


def new_nonce() -> bytes:
    """Return 32 fresh random bytes."""
    return secrets.token_bytes(NONCE_BYTES)


def client_proof(secret: Secret, challenge: bytes, nonce: bytes, incarnation: int) -> bytes:
    """Return the PROOF payload that answers `challenge`.

    Raises:
        FrameError: the challenge does not have 32 bytes.
    """
    if len(challenge) != NONCE_BYTES:
        raise FrameError("handshake", f"a challenge has {NONCE_BYTES} bytes, not {len(challenge)}")
    macs = [_mac(known, b"client", challenge, nonce, incarnation) for known in good_secrets(secret)]
    return nonce + b"".join(macs)


def check_proof(secret: Secret, challenge: bytes, proof: bytes, incarnation: int) -> bytes:
    """Verify a client's PROOF payload and return the WELCOME payload.

    Raises:
        FrameError: the peer does not know the secret.
    """
    nonce, macs = proof[:NONCE_BYTES], _split(proof[NONCE_BYTES:])
    for known in good_secrets(secret):
        expected = _mac(known, b"client", challenge, nonce, incarnation)
        if any(hmac.compare_digest(mac, expected) for mac in macs):
            return _mac(known, b"server", challenge, nonce, incarnation)
    raise FrameError("secret", "the peer could not prove the deployment's secret")


def check_welcome(secret: Secret, challenge: bytes, nonce: bytes, welcome: bytes, incarnation: int) -> None:
    """Verify the server's WELCOME payload.

    Raises:
        FrameError: the server does not know the secret.
    """
    expected = [_mac(known, b"server", challenge, nonce, incarnation) for known in good_secrets(secret)]
    if not any(hmac.compare_digest(welcome, mac) for mac in expected):
        raise FrameError("secret", "the server could not prove the deployment's secret")


def _split(macs: bytes) -> list[bytes]:
    """The single proofs; none of what has another length."""
    if len(macs) % MAC_BYTES or len(macs) > MAX_SECRETS * MAC_BYTES:
        return []
    return [macs[begin : begin + MAC_BYTES] for begin in range(0, len(macs), MAC_BYTES)]


def _mac(secret: bytes, role: bytes, challenge: bytes, nonce: bytes, incarnation: int) -> bytes:
    return hmac.digest(secret, role + challenge + nonce + incarnation.to_bytes(8, "little"), "sha256")
