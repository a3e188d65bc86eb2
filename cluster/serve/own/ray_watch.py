"""Whether the Ray below a cluster that serves still is there, and what is said and done when it is not."""

import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import TextIO

from cluster.config import ControlPlaneConfig

# Ray's own limit, after which its processes end that cannot reach the control service.
LIMIT_VARIABLE, LIMIT_SECONDS = "RAY_gcs_rpc_server_reconnect_timeout_s", 60.0
# Before that limit all must have ended in good order.
MARGIN_SECONDS = 10.0
CONNECT_SECONDS = 1.0
# Of a control service on another machine one failed try says little.
TRIES = 3


class RayLostError(RuntimeError):
    """The Ray below the cluster has ended; the message says what of it, and what that means."""


class RayWatch:
    """Looks at a Ray from time to time, and writes a line to `output` when it is lost, or back.

    Args:
        address: HOST:PORT of its control service (GCS).
        missing: which of its carrying processes are known to have ended.
        clock: in seconds; like `reachable`, whether something listens at an address, a test's own.
    """

    def __init__(
        self,
        config: ControlPlaneConfig,
        address: str,
        missing: Callable[[], list[str]],
        output: TextIO,
        clock: Callable[[], float] = time.monotonic,
        reachable: Callable[[str], bool] = lambda address: listens(address),
        given: Mapping[str, str] = os.environ,
    ) -> None:
        self._address, self._missing, self._output = address, missing, output
        self._clock, self._reachable = clock, reachable
        self._failures = 0
        self._since: float | None = None
        drain_s = config.drain_notice_seconds + config.drain_seconds
        self._limit_s = float(given.get(LIMIT_VARIABLE, LIMIT_SECONDS))
        self._patience_s = max(0.0, self._limit_s - MARGIN_SECONDS - drain_s)

    def look(self) -> None:
        """To be called about once a second.

        Raises:
            RayLostError: it is time to drain: Ray is gone for so long that it will soon end all processes.
        """
        lost = self._lost()
        if not lost:
            if self._since is not None:
                print(f"Ray is back after {self._clock() - self._since:.1f} s", file=self._output, flush=True)
            self._since = None
            return
        patience_s = 0.0 if "raylet" in self._missing() else self._patience_s  # its workers end with it
        if self._since is None:
            self._since = self._clock()
            if patience_s:
                print(self._said(lost), file=self._output, flush=True)
        if self._clock() - self._since >= patience_s:
            raise RayLostError(f"{lost} is gone, and without it Ray ends every process: draining and ending now")

    def _lost(self) -> str:
        if missing := self._missing():
            return f"Ray's {' and '.join(missing)}"
        self._failures = 0 if self._reachable(self._address) else self._failures + 1
        return f"Ray's control service (GCS) at {self._address}" if self._failures >= TRIES else ""

    def _said(self, lost: str) -> str:
        return (
            f"{lost} is gone: streams go on, but no process that fails is replaced, and Ray ends all of them within "
            f"{self._limit_s:.0f} s; draining begins in {self._patience_s:.0f} s"
        )


def listens(address: str) -> bool:
    """Whether HOST:PORT accepts connections."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, ValueError):
        return False
    return True
