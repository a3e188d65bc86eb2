"""What `serve` says when the Ray below it ends, and when it gives up."""

import io
import socket
import warnings

import pytest

with warnings.catch_warnings(action="ignore"):  # Serve's own, of pydantic
    from cluster.config import ControlPlaneConfig
    from cluster.serve.own.ray_watch import LIMIT_VARIABLE, TRIES, RayLostError, RayWatch, listens

AT = "10.0.0.1:6379"
CONFIG = ControlPlaneConfig(drain_seconds=25.0, drain_notice_seconds=5.0)


class Watched:
    """A Ray that the test ends and brings back."""

    def __init__(self, config: ControlPlaneConfig = CONFIG, **given: str) -> None:
        self.now = 0.0
        self.missing: list[str] = []
        self.reachable = True
        self.said = io.StringIO()
        self._watch = RayWatch(
            config, AT, lambda: self.missing, self.said, lambda: self.now, lambda at: at == AT and self.reachable, given
        )

    def lines(self, times: int = 1) -> list[str]:
        """Look so many times, once a second; return all lines."""
        for _ in range(times):
            self._watch.look()
            self.now += 1.0
        return self.said.getvalue().splitlines()


def test_a_process_of_our_own_ray_that_ended_is_said_at_once_and_once() -> None:
    watched = Watched()
    assert watched.lines(3) == []
    watched.missing = ["gcs_server"]
    said = (
        "Ray's gcs_server is gone: streams go on, but no process that fails is replaced, and Ray ends all of them "
        "within 60 s; draining begins in 20 s"
    )
    assert watched.lines(3) == [said]


def test_all_is_drained_before_rays_own_limit() -> None:
    watched = Watched()
    watched.missing = ["gcs_server"]
    watched.lines(20)
    with pytest.raises(RayLostError, match=r"^Ray's gcs_server is gone, and without it Ray ends every process: drain"):
        watched.lines()


def test_a_drain_that_takes_longer_than_the_limit_begins_at_once() -> None:
    watched = Watched(ControlPlaneConfig(drain_seconds=100.0))
    watched.missing = ["gcs_server"]
    with pytest.raises(RayLostError, match=r"^Ray's gcs_server is gone"):
        watched.lines()


def test_workers_end_with_their_raylet_and_so_does_all() -> None:
    watched = Watched()
    watched.missing = ["raylet"]
    with pytest.raises(RayLostError, match=r"^Ray's raylet is gone"):
        watched.lines()
    assert watched.said.getvalue() == ""


def test_the_users_own_limit_counts() -> None:
    watched = Watched(**{LIMIT_VARIABLE: "300"})
    watched.missing = ["gcs_server"]
    assert "within 300 s; draining begins in 260 s" in watched.lines()[0]


def test_a_control_service_elsewhere_may_come_back() -> None:
    watched = Watched()
    watched.reachable = False
    assert watched.lines(TRIES - 1) == []
    (line,) = watched.lines(10)
    assert line.startswith(f"Ray's control service (GCS) at {AT} is gone: streams go on")
    watched.reachable = True
    assert watched.lines(30)[1:] == ["Ray is back after 10.0 s"]


def test_whether_something_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert listens(f"127.0.0.1:{port}")
    assert not listens(f"127.0.0.1:{port}")
    assert not listens("no address")
