"""As much of a Kubernetes API server as `helm install` and `helm upgrade` ask for: it keeps what it is given."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

Object = dict[str, Any]

# Kinds of the chart by group and version, with their plural names.
KINDS = {
    "v1": {"Secret": "secrets", "Service": "services", "ServiceAccount": "serviceaccounts", "ConfigMap": "configmaps"},
    "policy/v1": {"PodDisruptionBudget": "poddisruptionbudgets"},
    "networking.k8s.io/v1": {"NetworkPolicy": "networkpolicies"},
    "ray.io/v1": {"RayService": "rayservices"},
}


def discovery(path: str) -> Object | None:
    """What the server says of itself, or None where the path is an object's."""
    groups = [name.split("/") for name in KINDS if "/" in name]
    versions = [
        {"name": name, "versions": [{"groupVersion": f"{name}/{version}", "version": version}]}
        for name, version in groups
    ]
    known: dict[str, Object] = {
        "/version": {"major": "1", "minor": "32", "gitVersion": "v1.32.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": versions},
    }
    for group, kinds in KINDS.items():
        resources = [{"name": name, "kind": kind, "namespaced": True, "verbs": ["get"]} for kind, name in kinds.items()]
        where = f"/api/{group}" if group == "v1" else f"/apis/{group}"
        known[where] = {"kind": "APIResourceList", "groupVersion": group, "resources": resources}
    return known.get(path)


def merged(old: Any, patch: Any) -> Any:
    """A merge patch applied; lists are replaced."""
    if not isinstance(old, dict) or not isinstance(patch, dict):
        return patch
    both = {**old, **{key: merged(old.get(key), value) for key, value in patch.items()}}
    return {key: value for key, value in both.items() if value is not None}


class KubeApi:
    """Objects by their path, and how to reach the server."""

    def __init__(self, kubeconfig: Path) -> None:
        self.objects: dict[str, Object] = {}
        self.kubeconfig = kubeconfig

    def secret(self, name: str) -> dict[str, str]:
        """The data of a Secret of namespace serving, as stored."""
        data: dict[str, str] = self.objects[f"/api/v1/namespaces/serving/secrets/{name}"]["data"]
        return data

    def listed(self, path: str, selector: str) -> Object:
        """The objects under a path whose labels are as a selector of equalities says."""
        wanted = dict(one.split("=", 1) for one in selector.split(",") if one)
        below = [one for where, one in self.objects.items() if where.rpartition("/")[0] == path]
        found = [one for one in below if wanted.items() <= one["metadata"].get("labels", {}).items()]
        return {"kind": "SecretList", "apiVersion": "v1", "metadata": {}, "items": found}

    def write_kubeconfig(self, port: int) -> None:
        """Point Helm here."""
        name = "tests"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": name,
            "clusters": [{"name": name, "cluster": {"server": f"http://127.0.0.1:{port}"}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
            "users": [{"name": name, "user": {}}],
        }
        self.kubeconfig.write_text(yaml.safe_dump(config))


def handler(api: KubeApi) -> type[BaseHTTPRequestHandler]:
    """The requests of one server."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self, status: int, body: Object) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def body(self) -> Object:
            content: Object = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            return content

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            is_list = url.path.rpartition("/")[2] in {name for kinds in KINDS.values() for name in kinds.values()}
            if (found := discovery(url.path)) or (found := api.objects.get(url.path)):
                self.answer(200, found)
            elif is_list:
                self.answer(200, api.listed(url.path, parse_qs(url.query).get("labelSelector", [""])[0]))
            else:
                status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
                self.answer(404, status)

        def do_POST(self) -> None:
            one = self.body()
            api.objects[f"{urlsplit(self.path).path}/{one['metadata']['name']}"] = one
            self.answer(201, one)

        def do_PUT(self) -> None:
            api.objects[urlsplit(self.path).path] = one = self.body()
            self.answer(200, one)

        def do_PATCH(self) -> None:
            path = urlsplit(self.path).path
            api.objects[path] = one = merged(api.objects[path], self.body())
            self.answer(200, one)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    return Handler


@contextmanager
def kube_api(folder: Path) -> Iterator[KubeApi]:
    """A server on loopback without any object; its kubeconfig lies in the folder."""
    api = KubeApi(folder / "kubeconfig")
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(api))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    api.write_kubeconfig(server.server_port)
    try:
        yield api
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
