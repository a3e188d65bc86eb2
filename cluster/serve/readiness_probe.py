"""`python -m cluster.serve.readiness_probe`: whether a pod of routers and shards is ready, for its readiness probe.

It is when Ray's process on this node answers and every process of the application serves, those on other nodes too. No
Service selects such a pod: its readiness decides whether another may be evicted, which must wait until the processes of
the last one have loaded their weights again. A pod without any process counts as ready then.

Standard library only: it runs every few seconds in each pod, and importing Ray would take seconds of a core.
"""

import argparse
import json
import os
import sys
import urllib.request
from collections.abc import Sequence

TIMEOUT_SECONDS = 4.0
DEFAULT_NAME = "expertmesh"
# A pod's environment may name a proxy for the outside; Ray is never behind it.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def main(argv: Sequence[str] | None = None) -> int:
    """Print what is missing, if anything is, and return the exit code."""
    args = _arguments(argv)
    try:
        _get(f"{args.node}/api/local_raylet_healthz")
        problem = missing(_get(f"{args.head}/api/serve/applications/"), args.name)
    except (OSError, ValueError) as error:
        problem = f"Ray does not answer: {error}"
    if problem:
        print(problem)
    return 1 if problem else 0


def missing(response: bytes, name: str) -> str:
    """What an application lacks according to the response of Ray's dashboard; empty if nothing.

    Raises:
        ValueError: it is not such a response.
    """
    applications = json.loads(response).get("applications", {})
    if name not in applications:
        return f"{name} is not deployed yet"
    status = str(applications[name]["status"])
    return "" if status == "RUNNING" else f"{name} is {status}: some process does not serve"


def _get(url: str) -> bytes:
    """Ask, with Ray's token where KubeRay gave the pod one."""
    token = os.environ.get("RAY_AUTH_TOKEN")
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    with OPENER.open(request, timeout=TIMEOUT_SECONDS) as response:
        body: bytes = response.read()
        return body


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m cluster.serve.readiness_probe", description="Whether a pod is ready.", allow_abbrev=False
    )
    head = f"http://{os.environ.get('FQ_RAY_IP', '127.0.0.1')}:8265"
    parser.add_argument(
        "--head", metavar="URL", default=head, help="Ray's dashboard (the host of FQ_RAY_IP, port 8265)"
    )
    node = "http://127.0.0.1:52365"
    parser.add_argument("--node", metavar="URL", default=node, help=f"the agent of Ray's process here ({node})")
    parser.add_argument("--name", default=DEFAULT_NAME, help=f"the Serve application ({DEFAULT_NAME})")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
