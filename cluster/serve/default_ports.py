"""The ports of a server: those that `generate`, `status` and Prometheus connect to by default, or any free ones.

All are decided here, once, and not by a Front: one that is replaced opens the same ports again, so that what the ready
line names stays true.
"""

import errno
import socket
import sys
from collections.abc import Mapping, Set
from dataclasses import replace
from typing import Any, TextIO

from router_service.front.config import FrontConfig

DEFAULT_PORTS = {"grpc_port": 50051, "metrics_port": 9090, "http_port": 8000}
HOSTS = {"grpc_port": "host", "metrics_port": "metrics_host", "http_port": "http_host"}
# How many ports from the default one on are tried, and how often the kernel is asked for consecutive free ones.
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
        """The settings with a number for each port that is open.

        One that is not `given` is at its default, or at the first free one behind it; 0 becomes one that is free.

        Args:
            given: the keys of the settings that the user has set, 0 (any free port) among them.
            fronts: Fronts of this machine: they share the ports of API and page, and each needs one for metrics.

        Raises:
            ValueError: there is no free one, or the host is no address of this machine.
        """
        ports: dict[str, Any] = {}
        named = {front.grpc_port, front.metrics_port, front.http_port}
        for key, host_key in HOSTS.items():
            host, count = str(getattr(front, host_key)), fronts if key == "metrics_port" else 1
            if key in self._defaults and key not in given:
                ports[key] = self._choose(key, host, self._defaults[key], count, named)
            elif getattr(front, key) == 0:
                ports[key] = self._any(key, host, count)
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

    def _any(self, key: str, host: str, count: int) -> int:
        for _ in range(TRIES):
            try:
                claims = held(host, count)
            except OSError as error:
                raise _cannot_listen(key, host, error) from error
            if claims:
                self._claims += claims
                return int(claims[0].getsockname()[1])
        raise ValueError(f"front.{key}: no {count} consecutive ports of {host} are free: set one")

    def _claimed(self, key: str, host: str, port: int) -> socket.socket | None:
        try:
            return claimed(host, port)
        except OSError as error:
            raise _cannot_listen(key, host, error) from error

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


def held(host: str, count: int) -> list[socket.socket]:
    """Hold `count` consecutive free ports of the kernel's choice; none if those behind the first are taken.

    Raises:
        OSError: `host` is no address of this machine.
    """
    claims: list[socket.socket] = []
    try:
        for place in range(count):
            claims.append(socket.socket())
            claims[-1].bind((host, claims[0].getsockname()[1] + place if place else 0))
            # Only after the bind, which nobody else may share. As nobody listens here, a Front can bind and listen
            # beside it; the kernel gives the port to nobody who asks for any.
            claims[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    except (OSError, OverflowError) as error:  # ports end at 65535
        for claim in claims:
            claim.close()
        if isinstance(error, OSError) and error.errno not in TAKEN:
            raise
        return []
    return claims


def _cannot_listen(key: str, host: str, error: OSError) -> ValueError:
    return ValueError(f"front.{HOSTS[key]}: cannot listen on {host!r}: {error.strerror or error}")
