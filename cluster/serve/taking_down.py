"""How an application is taken off a Ray that goes on without it."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import ray
from ray import serve

from cluster.config import ControlPlaneConfig
from cluster.processes.name_claim import NameClaimedError, claimed_name
from cluster.processes.ray_calls import SERVE_SECONDS, RayTimeoutError, call, get
from cluster.processes.service_registry import DrainOrder, known_registry, registered_in, remove_registry

BREAK_OFF_SECONDS = 5.0
ORDER_SECONDS = 1.0
# Somebody who tries the name meanwhile holds the claim only until refused.
CLAIM_TRIES = 5
AT_ONCE = DrainOrder(grace_s=0.1)


def take_down(config: ControlPlaneConfig) -> None:
    """Delete an application that has served, and its registry. Only under the claim to its name: see `claimed_again`.

    Raises:
        RayTimeoutError: Ray does not answer, or does not end the application in time.
    """
    name = config.application
    # Serve drains the replicas before it ends them, so the call takes as long as they may.
    seconds = SERVE_SECONDS + config.drain_notice_seconds + config.drain_seconds
    call(lambda: serve.delete(name), f"{name} to end", seconds)
    remove_registry(name)


def break_off(config: ControlPlaneConfig) -> None:
    """The same for one that never served: nobody need drain, and those that load are told to end.

    Serve has heard of it at once; what takes longer than seconds, such as the start of a process, it ends by itself.

    Raises:
        RayTimeoutError: Ray does not answer.
    """
    name = config.application
    try:
        with suppress(RayTimeoutError):
            call(lambda: serve.delete(name), f"{name} to end", BREAK_OFF_SECONDS, ordering_the_end(name))
    finally:
        remove_registry(name)


@contextmanager
def claimed_again(name: str) -> Iterator[None]:
    """Hold the claim to a name once more, so that nobody starts an application of it while another ends.

    Raises:
        NameClaimedError: somebody else holds it.
        RayTimeoutError: Ray does not answer.
    """
    with ExitStack() as held:
        for tries in range(CLAIM_TRIES, 0, -1):
            try:
                held.enter_context(claimed_name(name))
                break
            except NameClaimedError:
                if tries == 1:
                    raise
                time.sleep(ORDER_SECONDS)
        yield


def ordering_the_end(name: str, clock: Callable[[], float] = time.monotonic) -> Callable[[], None]:
    """A function to be called often, which once a second tells the processes that load to end."""
    last = -ORDER_SECONDS

    def order() -> None:
        nonlocal last
        if clock() - last < ORDER_SECONDS:
            return
        last = clock()
        with suppress(ValueError, RayTimeoutError, ray.exceptions.RayError):  # there is no registry yet, or no more
            registry = known_registry(name)
            for one in registered_in(registry):
                get(registry.order.remote(one.replica, AT_ONCE), "the registry to pass an order on")

    return order
