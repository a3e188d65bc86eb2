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

# Of processes that still load: Ray goes on to end those that take longer.
AT_ONCE_SECONDS = 8.0
ORDER_SECONDS = 1.0
# Somebody who tries the name meanwhile holds the claim only until refused.
CLAIM_TRIES = 5
AT_ONCE = DrainOrder(grace_s=0.1)


def take_down(config: ControlPlaneConfig, *, at_once: bool) -> None:
    """Delete the application and its registry, while nobody else can start one of the same name.

    Args:
        at_once: nothing is in flight, so nobody need drain: those that load are told to end. Of what takes longer than
            seconds Ray takes care alone.

    Raises:
        NameClaimedError: somebody else holds the claim to the name.
        RayTimeoutError: Ray does not answer, or does not end the application in time.
    """
    name = config.application
    # Serve drains the replicas before it ends them, so the call takes as long as they may.
    seconds = AT_ONCE_SECONDS if at_once else SERVE_SECONDS + config.drain_notice_seconds + config.drain_seconds
    go_on = ordering_the_end(name) if at_once else lambda: None
    with _claimed(name):
        call(lambda: serve.delete(name), f"{name} to end", seconds, go_on)
        remove_registry(name)


@contextmanager
def _claimed(name: str) -> Iterator[None]:
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
