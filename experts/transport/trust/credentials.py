"""What a process proves to its peers: that it knows the deployment's secret, and which deployment it belongs to."""

from dataclasses import dataclass

from experts.transport.trust.secret import Secret

DIGEST_BYTES = 32
SHORT_CHARACTERS = 12


@dataclass(frozen=True, slots=True)
class Credentials:
    """`digest` has 32 bytes and is the same in all processes that compute one model in one form; see
    `deployment_digest`."""

    secret: Secret
    digest: bytes

    def __post_init__(self) -> None:
        if len(self.digest) != DIGEST_BYTES:
            raise ValueError(f"a deployment digest has {DIGEST_BYTES} bytes, not {len(self.digest)}")


def short(digest: bytes) -> str:
    """The prefix by which logs name a digest."""
    return digest.hex()[:SHORT_CHARACTERS]
