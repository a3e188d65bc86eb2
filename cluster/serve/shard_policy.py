"""The autoscaling policy of a shard's Serve deployment: whether its process is to run, as the registry says.

Serve's controller calls it several times a second, among all that it has to do: nothing here may wait. It is pickled by
value, so that the controller needs nothing of ours; so it imports nothing of ours.
"""

import time
from typing import Any

import ray

LOOK_SECONDS = 0.5
# Then it may have been replaced.
ASK_SECONDS = 5.0


class ShardPolicy:
    """Wants one replica while the registry lists shard `index` among those that are to run, else none.

    Where the registry says nothing, all stays as it is.

    Args:
        registry: the name of the registry's actor.
    """

    def __init__(self, registry: str, index: int) -> None:
        self._name = registry
        self._index = index
        self._run: list[int] | None = None
        self._ask: Any = None
        self._asked = 0.0

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """Return how many replicas there are to be, and no state that Serve should keep."""
        self._look(time.monotonic())
        return (context.target_num_replicas if self._run is None else int(self._index in self._run)), {}

    def _look(self, now: float) -> None:
        """Take an answer that has come, and ask anew."""
        try:
            if self._ask is not None and ray.wait([self._ask], timeout=0)[0]:
                self._run, self._ask = ray.get(self._ask), None
            elif (self._ask is None and now - self._asked >= LOOK_SECONDS) or now - self._asked >= ASK_SECONDS:
                registry = ray.get_actor(self._name, namespace="expertmesh")
                self._ask, self._asked = registry.shards_to_run.remote(), now
        except (ValueError, ray.exceptions.RayError):  # there is none yet, or it has died and is started again
            self._run, self._ask, self._asked = None, None, now
