"""A value set to null is as if it were not there: left out or at its default, or refused by name."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.helm.chart import CHART, named, ray_pods, rendered, template
from tests.helm.kube_schemas import problems

Schema = dict[str, Any]
SCHEMA: Schema = json.loads((CHART / "values.schema.json").read_text())
FURTHER = (
    "autoscaling.enabled=true",
    "http.enabled=true",
    "serviceMonitor.enabled=true",
    "podMonitor.enabled=true",
    "priorityClass.create=true",
    'checkpoint.type="pvc"',
    'workers.spare={"routers": 1, "shards": 2, "resources": {"requests": {"cpu": 1, "memory": 1}, "limits": '
    '{"cpu": 1, "memory": 1}}}',
)
# Large, and so for their own values alone.
MONITORING = ("prometheusRule.enabled=true", "dashboards.enabled=true")
MONITORED = {"prometheusRule", "dashboards", "runbooksUrl"}


def paths(schema: Schema, path: str = "") -> Iterator[tuple[str, bool]]:
    """Each value and whether it may be null; of `workers` those of group compute, and `config` as a whole."""
    for key, one in schema["properties"].items():
        where = f"{path}{key}"
        if where == "workers":
            yield from paths(one["additionalProperties"], "workers.compute.")
        elif where != "global":
            yield where, key not in schema.get("required", [])
            yield from paths(one, f"{where}.") if where != "config" and "properties" in one else ()


def others(nulls: list[str]) -> tuple[str, ...]:
    """Values beside those at hand that make templates use them, none of them inside one."""
    inside = tuple(f"{where}{end}" for where in nulls for end in (".", "="))
    monitoring = MONITORING if {where.partition(".")[0] for where in nulls} & MONITORED else ()
    return tuple(one for one in FURTHER + monitoring if not one.startswith(inside))


ALL = dict(paths(SCHEMA))
OPTIONAL = [where for where, may in ALL.items() if may]
REQUIRED = [where for where, may in ALL.items() if not may]
DEPTHS = range(1, 1 + max(where.count(".") + 1 for where in REQUIRED))


@pytest.mark.parametrize("above", sorted({where.rpartition(".")[0] for where in OPTIONAL}))
def test_null_is_left_out(above: str) -> None:
    """All values of one place at once."""
    nulls = [where for where in OPTIONAL if where.rpartition(".")[0] == above]
    sets = (*others(nulls), *(f"{where}=null" for where in nulls))
    done = template(sets=sets)
    assert done.returncode == 0, done.stderr
    assert not [text for text in ("<nil>", "%!", "<no value>") if text in done.stdout]
    assert [problem for one in rendered(sets=sets) for problem in problems(one)] == []


@pytest.mark.parametrize("depth", DEPTHS)
def test_null_is_refused_by_name(depth: int) -> None:
    """Helm names all at once; null above would hide what is below."""
    refused = [where for where in REQUIRED if where.count(".") + 1 == depth]
    done = template(sets=tuple(f"{where}=null" for where in refused))
    assert done.returncode != 0
    said = [f"{above or '(root)'}: {key} is required" for above, _, key in (one.rpartition(".") for one in refused)]
    assert [text for text in said if text not in done.stderr] == []


@pytest.mark.parametrize("where", ALL)
def test_what_is_free_to_choose_may_be_null(where: str) -> None:
    """Lists, and objects whose keys are the user's or Kubernetes'."""
    schema = SCHEMA["properties"]["workers"]["additionalProperties"] if where.startswith("workers.") else SCHEMA
    for key in where.removeprefix("workers.compute.").split("."):
        schema = schema["properties"][key]
    if schema.get("items") or "array" in schema.get("type", ()) or "object" in schema.get("type", ()):
        assert ALL[where] or "properties" in schema


def test_a_group_may_be_null() -> None:
    assert ray_pods(rendered(sets=("workers.spare=null",))).keys() == {"head", "front", "compute"}


def test_security_contexts_are_the_users() -> None:
    """The ports of the data plane stay: network policies count on them."""
    for pod in ray_pods(rendered(sets=("podSecurityContext=null", "containerSecurityContext=null"))).values():
        assert pod["spec"]["securityContext"].keys() == {"sysctls"}
        assert "securityContext" not in pod["spec"]["containers"][0]
    own = 'podSecurityContext={"runAsUser": null, "sysctls": [{"name": "net.core.somaxconn", "value": "1024"}]}'
    for pod in ray_pods(rendered(sets=(own,))).values():
        security = pod["spec"]["securityContext"]
        assert "runAsUser" not in security
        assert security["runAsNonRoot"] is True
        names = [one["name"] for one in security["sysctls"]]
        assert names == ["net.ipv4.ip_local_port_range", "net.core.somaxconn"]


def test_every_container_takes_the_context() -> None:
    values = (
        "autoscaling.enabled=true",
        'checkpoint={"type": "init", "init": {"image": "fetch", "command": ["fetch"]}}',
        'containerSecurityContext={"privileged": false}',
    )
    objects = rendered(sets=values)
    scaler = named(objects, "RayService")["spec"]["rayClusterConfig"]["autoscalerOptions"]
    pods = [pod["spec"] for pod in ray_pods(objects).values()]
    containers = [one for pod in pods for one in pod["containers"] + pod["initContainers"]]
    assert all(one["securityContext"]["privileged"] is False for one in [*containers, scaler])
