"""The claim to an application's name on a Ray that several may join: whoever starts or ends one holds it meanwhile.

To look whether a name is taken, and to deploy under it, are two steps of Serve's: between them another could do so too.
"""

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray

from cluster.processes.ray_calls import RayTimeoutError, call, get

# Ray starts a process for it.
CLAIM_SECONDS = 60.0


class NameClaimedError(RuntimeError):
    """Another process is starting or ending an application of this name."""


class Claim:
    """The actor's body. Ray keeps one actor of a name; it ends with the process that created it."""

    def __init__(self, owner: str) -> None:
        self._owner = owner

    def owner(self) -> str:
        """Whose it is."""
        return self._owner


@contextmanager
def claimed_name(application: str, go_on: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the claim to `application` within the block; `go_on` is called while it is waited for.

    Raises:
        NameClaimedError: somebody else holds it.
        RayTimeoutError: Ray does not answer.
    """
    ours = call(lambda: _create(application), "the claim to a name", CLAIM_SECONDS, go_on)
    try:
        yield
    finally:
        with suppress(RayTimeoutError):  # it ends with us
            call(lambda: ray.kill(ours), "the claim to a name to end")


def _create(application: str) -> Any:
    name, owner = f"expertmesh-claim-{application}", secrets.token_hex(8)
    try:
        ours = ray.remote(Claim).options(name=name, namespace="expertmesh", num_cpus=0).remote(owner)
        # Two that are created at the same moment may both seem to succeed: the name leads to one of them.
        holds = get(ray.get_actor(name, namespace="expertmesh").owner.remote(), "the claim to a name", CLAIM_SECONDS)
    except (ValueError, ray.exceptions.RayError) as error:
        raise NameClaimedError(f"another process is starting or ending {application}") from error
    if holds != owner:
        raise NameClaimedError(f"another process is starting or ending {application}")
    return ours
