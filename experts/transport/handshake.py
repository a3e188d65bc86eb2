"""Mutual proof of the deployment's secret: HMAC-SHA256 over both sides' fresh nonces (RFC 2104, challenge-response).

    server -> client  CHALLENGE  server nonce (32 bytes); the header's incarnation names the server process
    client -> server  PROOF      client nonce (32 bytes) + HMAC(secret, "client" ...)
    server -> client  WELCOME    HMAC(secret, "server" ...)

The functions work on bytes so that blocking sockets and asyncio streams share them.
"""

import hmac
import secrets

from experts.transport.frame import FrameError

NONCE_BYTES = 32
MAC_BYTES = 32


def new_nonce() -> bytes:
    """Return 32 fresh random bytes."""
    return secrets.token_bytes(NONCE_BYTES)


def client_proof(secret: bytes, challenge: bytes, nonce: bytes, incarnation: int) -> bytes:
    """Return the PROOF payload that answers `challenge`.

    Raises:
        FrameError: the challenge does not have 32 bytes.
    """
    if len(challenge) != NONCE_BYTES:
        raise FrameError("handshake", f"a challenge has {NONCE_BYTES} bytes, not {len(challenge)}")
    return nonce + _mac(secret, b"client", challenge, nonce, incarnation)


def check_proof(secret: bytes, challenge: bytes, proof: bytes, incarnation: int) -> bytes:
    """Verify a client's PROOF payload and return the WELCOME payload.

    Raises:
        FrameError: the peer does not know the secret.
    """
    nonce, mac = proof[:NONCE_BYTES], proof[NONCE_BYTES:]
    if not hmac.compare_digest(mac, _mac(secret, b"client", challenge, nonce, incarnation)):
        raise FrameError("secret", "the peer could not prove the deployment's secret")
    return _mac(secret, b"server", challenge, nonce, incarnation)


def check_welcome(secret: bytes, challenge: bytes, nonce: bytes, welcome: bytes, incarnation: int) -> None:
    """Verify the server's WELCOME payload.

    Raises:
        FrameError: the server does not know the secret.
    """
    if not hmac.compare_digest(welcome, _mac(secret, b"server", challenge, nonce, incarnation)):
        raise FrameError("secret", "the server could not prove the deployment's secret")


def _mac(secret: bytes, role: bytes, challenge: bytes, nonce: bytes, incarnation: int) -> bytes:
    return hmac.digest(secret, role + challenge + nonce + incarnation.to_bytes(8, "little"), "sha256")
