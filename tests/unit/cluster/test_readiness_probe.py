"""A compute pod's readiness: Ray's process here answers, and the whole application serves."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

from cluster.serve.readiness_probe import main, missing


class Ray(BaseHTTPRequestHandler):
    """The dashboard and the agent in one; what they say stands in `said`."""

    said: ClassVar[dict[str, Any]] = {}
    tokens: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        self.tokens.append(self.headers.get("Authorization"))
        body = self.said.get(self.path)
        self.send_response(200 if body is not None else 503)
        self.end_headers()
        self.wfile.write(b"success" if body == "success" else json.dumps(body).encode())

    def log_message(self, *_: Any) -> None:
        """Silence."""


@pytest.fixture
def ray() -> Iterator[str]:
    Ray.said, Ray.tokens = {"/api/local_raylet_healthz": "success"}, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Ray)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def asked(url: str) -> int:
    return main(["--head", url, "--node", url])


def applications(status: str, name: str = "expertmesh") -> dict[str, Any]:
    return {"applications": {name: {"status": status, "message": ""}}}


def test_ready_when_the_application_runs(
    ray: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "drawn")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    Ray.said["/api/serve/applications/"] = applications("RUNNING")
    assert asked(ray) == 0
    assert Ray.tokens == ["Bearer drawn", "Bearer drawn"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (applications("DEPLOYING"), "expertmesh is DEPLOYING: some process does not serve"),
        (applications("UNHEALTHY"), "expertmesh is UNHEALTHY"),
        (applications("RUNNING", "another"), "expertmesh is not deployed yet"),
        ({"applications": {}}, "expertmesh is not deployed yet"),
        (None, "Ray does not answer: HTTP Error 503"),
    ],
)
def test_not_ready_until_then(ray: str, answer: Any, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    Ray.said["/api/serve/applications/"] = answer
    assert asked(ray) == 1
    assert said in capsys.readouterr().out


def test_not_ready_without_rays_process_here(ray: str, capsys: pytest.CaptureFixture[str]) -> None:
    Ray.said = {"/api/serve/applications/": applications("RUNNING")}
    assert asked(ray) == 1
    assert "Ray does not answer" in capsys.readouterr().out


def test_an_answer_of_something_else_is_no_answer() -> None:
    with pytest.raises(ValueError, match="Expecting value"):
        missing(b"<html>", "expertmesh")


def test_it_imports_nothing_heavy() -> None:
    """It is run anew every few seconds."""
    code = "import cluster.serve.readiness_probe, sys; "
    code += "print(sorted({'ray', 'torch', 'yaml', 'msgspec'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "[]"
