"""The registry's entries as this process last heard them: a registry that is dead or restarts holds nobody up."""

import logging
import time
from collections.abc import Callable, Collection
from typing import Any

import ray

from cluster.processes.ray_calls import RayTimeoutError
from cluster.processes.service_registry import Announcement, await_registered, registered_in

log = logging.getLogger(__name__)

# Whoever asks has peers to watch meanwhile: what is known does for as long as the registry is silent.
ASK_SECONDS = 1.0
# A registry that was restarted lists its processes again as soon as they have renewed their entries.
RETURN_SECONDS = 3.0


class KnownProcesses:
    """Asks `registry`, and goes on with its last answer while it does not answer."""

    def __init__(self, registry: Any) -> None:
        self._registry = registry
        self._silent = False
        self.announcements: list[Announcement] = []

    def ask(self) -> list[Announcement]:
        """Return the entries, the youngest process last; waits for at most a second."""
        try:
            self._heard(registered_in(self._registry, ASK_SECONDS))
        except (RayTimeoutError, ray.exceptions.RayError) as error:
            self._note(error)
        return self.announcements

    async def await_answer(self) -> list[Announcement]:
        """As `ask`, on an event loop."""
        try:
            self._heard(await await_registered(self._registry, ASK_SECONDS))
        except (RayTimeoutError, ray.exceptions.RayError) as error:
            self._note(error)
        return self.announcements

    def _heard(self, announcements: list[Announcement]) -> None:
        self.announcements, self._silent = announcements, False

    def _note(self, error: Exception) -> None:
        if not self._silent:  # once: it is asked again within a second
            log.warning("the registry does not answer, what it said last stays: %s", error)
        self._silent = True


class Absences:
    """Which processes have been missing from the registry's answers for so long that they are gone.

    `clock` counts seconds, and is a test's own where it must not wait.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[str, float] = {}

    def gone(self, replicas: Collection[str], listed: Collection[str]) -> set[str]:
        """Those of `replicas` that no answer since `RETURN_SECONDS` has listed; to be called for each answer."""
        now = self._clock()
        missing = set(replicas) - set(listed)
        self._since = {replica: self._since.get(replica, now) for replica in missing}
        return {replica for replica, since in self._since.items() if now - since >= RETURN_SECONDS}
