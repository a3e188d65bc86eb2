"""How many pods there are, which may go, when one is ready, and what a site adds to them."""

from pathlib import Path
from typing import Any

import pytest

from cluster.serve import readiness_probe as whole
from tests.helm.chart import CHART, named, ray_pods, rendered, serve_config
from tests.helm.generators import golden

CI = CHART / "ci"
DEFAULT = CI / "default-values.yaml"
SOME = '{"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"cpu": 1, "memory": "1Gi"}}'
each_case = pytest.mark.parametrize("file", golden.cases().values(), ids=golden.cases().keys())


def replicas(objects: list[dict[str, Any]], group: str) -> tuple[int, int, int]:
    """Fewest pods of a group, pods, and most."""
    cluster = named(objects, "RayService")["spec"]["rayClusterConfig"]
    (one,) = (one for one in cluster["workerGroupSpecs"] if one["groupName"] == group)
    return one["minReplicas"], one["replicas"], one["maxReplicas"]


def test_no_pods_at_all_are_a_number_too() -> None:
    assert replicas(rendered(CI / "autoscaling-values.yaml"), "compute") == (0, 1, 3)
    assert replicas(rendered(DEFAULT, sets=("workers.compute.minReplicas=0",)), "compute") == (0, 1, 1)
    idle = 'workers.idle={"replicas": 0, "resources": ' + SOME + "}"
    assert replicas(rendered(DEFAULT, sets=(idle,)), "idle") == (0, 0, 0)


def test_zero_and_false_are_values() -> None:
    """Nothing takes them for unset and puts its default there."""
    values = (
        "upgrade.deletionDelaySeconds=0",
        'priorityClass={"create": true, "value": 0}',
        "config.cluster.drain_notice_seconds=0",
        "workers.compute.podDisruptionBudget.maxUnavailable=0",
        "workers.front.podDisruptionBudget.enabled=false",
    )
    objects = rendered(DEFAULT, sets=values)
    assert named(objects, "RayService")["spec"]["rayClusterDeletionDelaySeconds"] == 0
    assert named(objects, "PriorityClass")["value"] == 0
    assert ray_pods(objects)["compute"]["spec"]["terminationGracePeriodSeconds"] == 60
    budgets = {one["metadata"]["name"]: one["spec"] for one in objects if one["kind"] == "PodDisruptionBudget"}
    assert budgets.keys() == {"mesh-expertmesh-compute", "mesh-expertmesh-head"}
    assert budgets["mesh-expertmesh-compute"]["minAvailable"] == 1


@each_case
def test_budgets_are_such_as_kubernetes_can_count(file: Path) -> None:
    """A RayCluster has no scale subresource: with maxUnavailable or a percentage every eviction would be refused."""
    for one in rendered(file):
        if one["kind"] == "PodDisruptionBudget":
            assert one["spec"].keys() == {"minAvailable", "selector"}
            assert type(one["spec"]["minAvailable"]) is int


@pytest.mark.parametrize(
    ("group", "left"),
    [
        ('{"replicas": 4}', 3),
        ('{"replicas": 4, "podDisruptionBudget": {"maxUnavailable": 0}}', 4),
        ('{"replicas": 4, "podDisruptionBudget": {"maxUnavailable": 9}}', 0),
        ('{"replicas": 4, "podDisruptionBudget": {"maxUnavailable": "50%"}}', 2),
        ('{"replicas": 4, "podDisruptionBudget": {"maxUnavailable": "26%"}}', 2),
        ('{"replicas": 4, "podDisruptionBudget": {"maxUnavailable": "0%"}}', 4),
        ('{"replicas": 4, "minReplicas": 2, "maxReplicas": 6}', 1),
    ],
)
def test_a_budget_leaves_all_but_what_may_go(group: str, left: int) -> None:
    scales = f"autoscaling.enabled={'true' if 'minReplicas' in group else 'false'}"
    objects = rendered(DEFAULT, sets=(f"workers.compute={group}", scales))
    assert named(objects, "PodDisruptionBudget", "mesh-expertmesh-compute")["spec"]["minAvailable"] == left


def test_the_heads_eviction_waits_for_a_person() -> None:
    def budget(*values: str) -> int:
        objects = rendered(DEFAULT, sets=values)
        least: int = named(objects, "PodDisruptionBudget", "mesh-expertmesh-head")["spec"]["minAvailable"]
        return least

    assert budget() == 2
    assert budget('upgrade.type="None"') == 1
    names = [one["metadata"]["name"] for one in rendered(CI / "autoscaling-values.yaml") if "Budget" in one["kind"]]
    assert "mesh-expertmesh-head" not in names


@each_case
def test_other_pods_are_ready_when_all_is_whole(file: Path) -> None:
    objects = rendered(file)
    (application,) = serve_config(objects)["applications"]
    pods = [pod for group, pod in ray_pods(objects).items() if group != "head"]
    others = [pod for pod in pods if pod["metadata"]["labels"]["expertmesh.io/front"] == "false"]
    assert others
    for pod in others:
        probe = pod["spec"]["containers"][0]["readinessProbe"]
        assert probe["exec"] == {"command": ["python3", "-P", "-m", "cluster.serve.readiness_probe"]}
        assert probe["timeoutSeconds"] > 2 * whole.TIMEOUT_SECONDS
        assert application["name"] == whole.DEFAULT_NAME


def test_what_a_platform_asks_for_is_there() -> None:
    """All pods get what `pods` says; a group's own wins, or comes last, and the chart's own stays."""
    objects = rendered(CI / "platform-values.yaml")
    pods = ray_pods(objects)
    tiers = {group: pod["metadata"]["labels"]["tier"] for group, pod in pods.items()}
    assert tiers == {"head": "control", "compute": "common", "front": "api"}
    for group, pod in pods.items():
        assert pod["metadata"]["labels"]["team"] == "serving"
        assert pod["metadata"]["labels"]["expertmesh.io/group"] == group
        assert pod["metadata"]["annotations"]["prometheus.io/scrape"] == "false"
        container = pod["spec"]["containers"][0]
        assert {"name": "TZ", "value": "Etc/UTC"} in container["env"]
        assert container["envFrom"][0] == {"configMapRef": {"name": "site"}}
        mounts = {mount["name"] for mount in container["volumeMounts"]}
        assert mounts == {volume["name"] for volume in pod["spec"]["volumes"]} >= {"ca", "tmp", "secret"}
    compute = pods["compute"]["spec"]["containers"][0]
    assert compute["env"][-1]["name"] == "NCCL_DEBUG"
    assert compute["resources"]["limits"]["nvidia.com/mig-3g.71gb"] == "1"
    assert "nvidia.com/gpu" not in compute["resources"]["limits"]
