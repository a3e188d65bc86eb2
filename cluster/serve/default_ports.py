"""The ports that `serve` uses by default: those that `generate`, `status` and Prometheus connect to."""

import errno
import socket
import sys
from collections.abc import Mapping, Set
from dataclasses import replace
from typing import Any, TextIO

from router_service.front.config import FrontConfig

DEFAULT_PORTS = {"grpc_port": 50051, "metrics_port": 9090}
HOSTS = {"grpc_port": "host", "metrics_port": "metrics_host"}
# How many ports from the default one on are tried.
TRIES = 1000
TAKEN = (errno.EADDRINUSE, errno.EACCES)


class DefaultPorts:
    """Picks ports and reserves them until closed against other servers that start: ours opens them seconds later."""

    def __init__(self, output: TextIO | None = None, defaults: Mapping[str, int] = DEFAULT_PORTS) -> None:
        self._output = output or sys.stderr
        self._defaults = defaults
        self._claims: list[socket.socket] = []

    def __enter__(self) -> "DefaultPorts":
        return self

    def __exit__(self, *exc: object) -> None:
        for claim in self._claims:
            claim.close()

    def choose(self, front: FrontConfig, given: Set[str], fronts: int) -> FrontConfig:
        """The settings with each port that is not `given` at its default, or at the first free one behind it.

        Args:
            given: the keys of the settings that the user has set, 0 (any free port) among them.
            fronts: Fronts of this machine: they share the API's port, and each needs one for metrics.

        Raises:
            ValueError: there is no free one, or the host is no address of this machine.
        """
        ports: dict[str, Any] = {}
        named = {front.grpc_port, front.metrics_port, front.http_port}
        for key, default in self._defaults.items():
            if key not in given:
                host, count = str(getattr(front, HOSTS[key])), fronts if key == "metrics_port" else 1
                ports[key] = self._choose(key, host, default, count, named)
        return replace(front, **ports)

    def _choose(self, key: str, host: str, default: int, count: int, named: Set[int | None]) -> int:
        for first in range(default, default + TRIES):
            ports = range(first, first + count)
            if not named.isdisjoint(ports):  # another key asks for it
                continue
            claims = [claim for port in ports if (claim := self._claimed(key, host, port))]
            if len(claims) == count:
                self._claims += claims
                if first != default:
                    self._print_moved(key, host, default, first)
                return first
            for claim in claims:
                claim.close()
        raise ValueError(f"front.{key}: none of the ports {default} to {default + TRIES} of {host} is free: set one")

    def _claimed(self, key: str, host: str, port: int) -> socket.socket | None:
        try:
            return claimed(host, port)
        except OSError as error:
            raise ValueError(f"front.{HOSTS[key]}: cannot listen on {host!r}: {error.strerror or error}") from error

    def _print_moved(self, key: str, host: str, default: int, first: int) -> None:
        flag = f"--{key.replace('_', '-')}"
        line = f"expertmesh: port {default} of {host} is taken: using {first} for {flag}"
        print(line, file=self._output, flush=True)


def claimed(host: str, port: int) -> socket.socket | None:
    """Claim a free port among servers of ours on this machine; None if it is taken.

    The claim is a name in Linux's abstract namespace, which goes with the process; the port itself stays unopened.

    Raises:
        OSError: `host` is no address of this machine.
    """
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0expertmesh-port-{port}")
        socket.create_server((host, port)).close()
    except OSError as error:
        claim.close()
        if error.errno not in TAKEN:
            raise
        return None
    return claim
