"""The chart: lint, golden renders, schemas, and what its objects must say to each other."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.cli.main import parser
from cluster.config import config_from
from tests.helm.chart import CHART, ROOT, helm, named, ray_pods, rendered, serve_config, template
from tests.helm.generators import golden, sync, values_table
from tests.helm.kube_schemas import problems

CASES = golden.cases()
CI = CHART / "ci"
DEFAULT = CI / "default-values.yaml"
SOME = '{"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"cpu": 1, "memory": "1Gi"}}'
each_case = pytest.mark.parametrize("file", CASES.values(), ids=CASES.keys())


@each_case
def test_lint(file: Path) -> None:
    done = helm("lint", str(CHART), "--strict", "-f", str(file))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    """`make helm-golden` renders anew; its diff is what a change of the chart does."""
    assert golden.render(CASES[name]) == (golden.GOLDEN / f"{name}.yaml").read_text()


def test_no_golden_is_stale() -> None:
    assert {file.stem for file in golden.GOLDEN.glob("*.yaml")} == set(CASES)


@each_case
def test_schemas(file: Path) -> None:
    objects = rendered(file)
    assert {one["kind"] for one in objects} >= {"RayService", "Service"}
    assert [problem for one in objects for problem in problems(one)] == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"spec": {"rayClusterConfig": {"headGroupSpec": {"tmplate": {}}}}}, "tmplate"),
        ({"spec": {"serveConfigV3": ""}}, "serveConfigV3"),
    ],
)
def test_the_ray_schema_refuses(change: dict[str, Any], said: str) -> None:
    service = named(rendered(DEFAULT), "RayService")
    head = change["spec"].get("rayClusterConfig", {}).get("headGroupSpec", {})
    service["spec"]["rayClusterConfig"]["headGroupSpec"].update(head)
    service["spec"].update({key: value for key, value in change["spec"].items() if key != "rayClusterConfig"})
    assert said in "".join(problems(service))


def test_an_unknown_kind_is_a_problem() -> None:
    assert problems({"apiVersion": "v1", "kind": "Pot", "metadata": {"name": "x"}}) != []


@pytest.mark.parametrize(
    ("value", "named_key"),
    [
        ("image.pullPolicy=\"Sometimes\"", "image.pullPolicy"),
        ("ports.grpc=80", "ports.grpc"),
        ("ports.grcp=50051", "grcp"),
        ("checkpoint.type=\"s3\"", "checkpoint.type"),
        ("checkpoint.hostPath=\"relative\"", "checkpoint.hostPath"),
        ("config.model.device=\"auto\"", "config.model.device"),
        ("config.experts.shards=0", "config.experts.shards"),
        ("config.front={\"grpc_port\": 1}", "config.front"),
        ("config.cluster.address=\"auto\"", "config.cluster"),
        ("config.expert={}", "expert"),
        ("config.router.nosuch=1", "nosuch"),
        ("config.metrics.topexperts=3", "topexperts"),
        ("config.front.max_concurrent_streams=\"nope\"", "config.front.max_concurrent_streams"),
        ("config.front.tls_cert=\"/x\"", "tls_cert"),
        ("config.experts.checksum=\"yes\"", "config.experts.checksum"),
        ("config.logging.level=\"chatty\"", "config.logging.level"),
        ("config.tracing.endpoint=\"collector\"", "config.tracing.endpoint"),
        ("workers.compute.shards=-1", "workers.compute.shards"),
        ("workers.compute.resources={\"limits\": {\"cpu\": \"lots\"}}", "workers.compute.resources"),
        ("workers.front.fronts=2", "workers.front.fronts"),
        ("workers.compute.gpuResource=\"gpu\"", "workers.compute.gpuResource"),
        ("pods.labels={\"team\": 7}", "pods.labels.team"),
        ("pods.volumes=[{\"emptyDir\": {}}]", "pods.volumes.0"),
        ("head.volumeMounts=[{\"name\": \"a\", \"mountPath\": \"a\"}]", "head.volumeMounts.0.mountPath"),
        ("service.loadBalancerSourceRanges=[\"all\"]", "service.loadBalancerSourceRanges.0"),
        ("workers.Compute={}", "workers"),
        ("upgrade.type=\"Rolling\"", "upgrade.type"),
        ("serviceMonitor.interval=\"often\"", "serviceMonitor.interval"),
        ("gcsFaultTolerance.redisAddress=\"redis\"", "gcsFaultTolerance.redisAddress"),
        ("fullnameOverride=\"a-name-that-is-longer-than-what-kuberay-can-take\"", "fullnameOverride"),
        ("tmp.sizeLimit=\"much\"", "tmp.sizeLimit"),
        ("rayLogs.maxBytes=0", "rayLogs.maxBytes"),
        ("rayLogs.backupCount=0", "rayLogs.backupCount"),
        ("podSecurityContext=\"none\"", "podSecurityContext"),
        ("workers.compute.podDisruptionBudget.maxUnavailable=\"one\"", "podDisruptionBudget.maxUnavailable"),
    ],
)  # fmt: skip
def test_the_schema_refuses_and_names(value: str, named_key: str) -> None:
    done = template(DEFAULT, sets=(value,))
    assert done.returncode != 0
    assert named_key in done.stderr


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (("config.experts.shards=3",), "workers.*.shards: there is room for 2, but config.experts.shards needs 3"),
        (("config.experts.copies=3",), "config.experts.copies is 3, more than config.experts.shards 2"),
        (("config.cluster.routers=2",), "workers.*.routers: there is room for 1, but config.cluster.routers needs 2"),
        (("workers.front.enabled=false",), "workers.*.fronts: there is room for 0"),
        (('config.model.device="cuda"',), "workers.compute.gpus is 0, its routers and shards need 3"),
        (("workers.compute.replicas=3", "workers.compute.maxReplicas=2"), "workers.compute.replicas is 3, more"),
        (("workers.compute.minReplicas=2",), "workers.compute.replicas is 1, less than minReplicas 2"),
        (("workers.compute.minReplicas=3", "workers.compute.maxReplicas=2"), "workers.compute.replicas is 1, less"),
        (("config.experts.shards=3", "workers.compute.maxReplicas=2"), "workers.*.shards: there is room for 2"),
        (("ports.metrics=8080",), "ports.metrics is 8080, which is Ray's metrics-export port"),
        (("ports.grpc=6379",), "ports.grpc is 6379, which is Ray's gcs port"),
        (("ports.grpc=12000",), "ports.grpc is 12000, but Ray's workers take 10002 to 19999"),
        (("ports.grpc=25000",), "ports.grpc is 25000, inside ports.dataPlane 20000 to 29999"),
        (("ports.grpc=9090",), "ports.grpc and ports.metrics are both 9090"),
        (("ports.http=9090",), "ports.metrics and ports.http are both 9090"),
        (("ports.http=50051",), "ports.grpc and ports.http are both 50051"),
        (("ports.dataPlane.first=50000", "ports.dataPlane.last=50100"), "ports.grpc is 50051, inside ports.dataPlane"),
        (("ports.dataPlane.first=30000", "ports.dataPlane.last=20000"), "ports.dataPlane.first is 30000, more than"),
        (("ports.dataPlane.last=45000",), "ports.dataPlane is 20000 to 45000, which holds 44217, Ray's autoscaler"),
        (('pods.labels={"expertmesh.io/front": "true"}',), ".labels or pods.labels sets expertmesh.io/front"),
        (('workers.compute.labels={"ray.io/group": "x"}',), "workers.compute.labels or pods.labels sets ray.io/group"),
        (
            ('head.annotations={"expertmesh.io/config": "x"}',),
            "head.annotations or pods.annotations sets expertmesh.io",
        ),
        (('pods.volumes=[{"name": "tmp"}]',), ".volumes or pods.volumes names tmp, which is there already"),
        (('pods.volumes=[{"name": "a"}]', 'head.volumes=[{"name": "a"}]'), "head.volumes or pods.volumes names a"),
        (
            ('pods.volumes=[{"name": "a"}]', 'pods.volumeMounts=[{"name": "a", "mountPath": "/tmp/"}]'),
            ".volumeMounts or pods.volumeMounts has /tmp/, which is mounted already",
        ),
        (('head.volumeMounts=[{"name": "a", "mountPath": "/a"}]',), "names a, which is no volume: add it to volumes"),
        ((f'workers.head={{"resources": {SOME}}}',), "workers.head: so the pod of Ray's head is called"),
        (('service.loadBalancerClass="x/y"',), "service.type is ClusterIP, but loadBalancerClass and"),
        (
            ('http.service.type="NodePort"', 'http.service.loadBalancerSourceRanges=["10.0.0.0/8"]'),
            "http.service.type is",
        ),
        (('service.externalTrafficPolicy="Local"',), "service.type is ClusterIP, but externalTrafficPolicy needs"),
        (('service.labels={"helm.sh/chart": "x"}',), "service.labels sets helm.sh/chart, which is set for you"),
        (('http.service.labels={"expertmesh.io/metrics": "true"}',), "http.service.labels sets expertmesh.io/metrics"),
        (("gcsFaultTolerance.enabled=true",), "gcsFaultTolerance.redisAddress is empty"),
        (('checkpoint.type="hostPath"',), "checkpoint.hostPath is empty"),
        (('checkpoint.type="init"',), "checkpoint.init.image"),
        (("tls.enabled=true",), "tls.existingSecret is empty"),
        (("tls.enabled=true", "tls.certManager.enabled=true"), "tls.certManager.issuerRef.name is empty"),
        (("tokens.enabled=false",), "tokens.enabled is false"),
        (("tokens.allowUnauthenticated=true",), "tokens.allowUnauthenticated is true, but tokens.enabled is true"),
    ],
)
def test_what_no_schema_can_refuse(values: tuple[str, ...], said: str) -> None:
    done = template(DEFAULT, sets=values)
    assert done.returncode != 0
    assert said in done.stderr


@each_case
def test_pods_are_confined(file: Path) -> None:
    objects = rendered(file)
    scales = named(objects, "RayService")["spec"]["rayClusterConfig"].get("enableInTreeAutoscaling", False)
    for group, pod in ray_pods(objects).items():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is (scales and group == "head")
        for container in spec["containers"] + spec.get("initContainers", []):
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}


@each_case
def test_pods_outlive_their_streams(file: Path) -> None:
    objects = rendered(file)
    cluster = serve_config(objects)["applications"][0]["args"]["cluster"]
    drain, notice = cluster["drain_seconds"], cluster["drain_notice_seconds"]
    for group, pod in ray_pods(objects).items():
        command = pod["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        assert pod["spec"]["terminationGracePeriodSeconds"] >= notice + drain + 30
        if group == "head":
            assert command == ["sleep", f"{notice + drain}"]
        else:
            args = parser().parse_args(command[1:])
            assert (args.here, args.notice, args.seconds) == (True, notice, drain)


def test_a_change_of_the_configuration_is_in_place_or_a_new_cluster() -> None:
    """KubeRay starts a new cluster where the pods of one change, and hands Serve's configuration over where not."""

    def pods(*sets: str) -> tuple[object, str]:
        service = named(rendered(DEFAULT, sets=sets), "RayService")["spec"]
        return service["rayClusterConfig"], service["serveConfigV2"]

    changed = "config.router.max_sequences=7"
    before, after = pods(), pods(changed)
    assert (before[0] == after[0], before[1] == after[1]) == (True, False)
    fresh = 'upgrade.onConfigChange="NewCluster"'
    before, after = pods(fresh), pods(fresh, changed)
    assert (before[0] == after[0], before[1] == after[1]) == (False, False)
    assert pods(fresh) == before


@each_case
def test_the_front_is_ready_when_it_says_so(file: Path) -> None:
    """The kubelet speaks no TLS with a client certificate: it asks the metrics port."""
    objects = rendered(file)
    front = serve_config(objects)["applications"][0]["args"]["front"]
    (pod,) = (
        one for one in ray_pods(objects).values() if one["metadata"]["labels"].get("expertmesh.io/front") == "true"
    )
    probe = pod["spec"]["containers"][0]["readinessProbe"]["httpGet"]
    assert probe == {"path": "/healthz", "port": front["metrics_port"]}


@each_case
def test_the_application_knows_its_configuration(file: Path) -> None:
    """Every key that the chart writes is one of the application's, with a value that it takes."""
    args = serve_config(rendered(file))["applications"][0]["args"]
    config = config_from(args)
    assert (config.front.host, config.cluster.address) == ("0.0.0.0", "auto")
    assert config.cluster.front_resource
    assert config.model.device in ("cpu", "cuda")


@each_case
def test_services_reach_the_front(file: Path) -> None:
    objects = rendered(file)
    front = serve_config(objects)["applications"][0]["args"]["front"]
    pods = [pod for group, pod in ray_pods(objects).items() if group != "head"]
    ports = {"mesh-expertmesh": front["grpc_port"], "mesh-expertmesh-metrics": front["metrics_port"]}
    if front["http_port"] is not None:
        ports["mesh-expertmesh-http"] = front["http_port"]
    assert {one["metadata"]["name"] for one in objects if one["kind"] == "Service"} == ports.keys()
    for name, number in ports.items():
        service = named(objects, "Service", name)
        chosen = [pod for pod in pods if service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()]
        assert len(chosen) == 1
        container = {port["name"]: port["containerPort"] for port in chosen[0]["spec"]["containers"][0]["ports"]}
        (port,) = service["spec"]["ports"]
        assert port["port"] == container[port["targetPort"]] == number


@each_case
def test_each_process_has_a_place(file: Path) -> None:
    """What Ray is told of a group is JSON for the shell, adds up to what is asked for, and GPUs are there."""
    objects = rendered(file)
    args = serve_config(objects)["applications"][0]["args"]
    cluster = named(objects, "RayService")["spec"]["rayClusterConfig"]
    total: dict[str, float] = {}
    for group in cluster["workerGroupSpecs"]:
        params = group["rayStartParams"]
        resources = yaml.safe_load(params["resources"].strip('"').replace('\\"', '"'))
        assert int(params["num-cpus"]) == resources["expertmesh_router"] + resources["expertmesh_shard"]
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        (gpus,) = [number for name, number in limits.items() if "/" in name] or ["0"]
        assert params["num-gpus"] == gpus
        if args["model"]["device"] == "cuda":
            assert int(gpus) >= int(params["num-cpus"]) * args["cluster"].get("gpus_per_process", 1)
        for name, number in resources.items():
            pods = "maxReplicas" if cluster.get("enableInTreeAutoscaling") else "replicas"
            total[name] = total.get(name, 0) + number * group[pods]
        labels = group["template"]["metadata"]["labels"]
        for role in ("front", "router", "shard"):
            assert labels[f"expertmesh.io/{role}"] == str(resources[f"expertmesh_{role}"] > 0).lower()
    assert total["expertmesh_front"] >= args["cluster"].get("fronts", 1)
    assert total["expertmesh_router"] >= args["cluster"]["routers"]
    assert total["expertmesh_shard"] >= args["experts"]["shards"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def admitted(objects: list[dict[str, Any]], source: dict[str, str], target: dict[str, str], port: int) -> bool:
    """Whether a pod of these labels in the same namespace reaches a port of another, by the policies."""
    policies = [one["spec"] for one in objects if one["kind"] == "NetworkPolicy"]
    chosen = [one for one in policies if one["podSelector"]["matchLabels"].items() <= target.items()]
    return not chosen or any(
        any(one["port"] <= port <= one.get("endPort", one["port"]) for one in rule["ports"])
        and any(
            "podSelector" in peer
            and "namespaceSelector" not in peer
            and peer["podSelector"].get("matchLabels", {}).items() <= source.items()
            for peer in rule["from"]
        )
        for one in chosen
        for rule in one["ingress"]
    )


def test_only_routers_reach_shards() -> None:
    objects = rendered(CI / "shard-classes-values.yaml")
    labels = {group: pod["metadata"]["labels"] for group, pod in ray_pods(objects).items()}
    stranger = {"app": "else"}
    shards, data, ray = "shards-h100", 20500, 10002
    assert admitted(objects, labels["routers"], labels[shards], data)
    assert not admitted(objects, labels["front"], labels[shards], data)
    assert not admitted(objects, labels["head"], labels[shards], data)
    assert not admitted(objects, stranger, labels[shards], data)
    assert not admitted(objects, stranger, labels[shards], ray)
    assert admitted(objects, labels["head"], labels[shards], ray)
    assert admitted(objects, labels["front"], labels["routers"], data)
    assert not admitted(objects, labels[shards], labels["routers"], data)
    assert admitted(objects, stranger, labels["front"], 50051)
    assert not admitted(objects, stranger, labels["front"], data)
    assert not admitted(objects, stranger, labels["head"], 8265)


def test_fixed_ports_lie_outside_the_data_plane() -> None:
    objects = rendered(DEFAULT)
    cluster = named(objects, "RayService")["spec"]["rayClusterConfig"]
    for pod in ray_pods(objects).values():
        (sysctl,) = pod["spec"]["securityContext"]["sysctls"]
        first, last = map(int, sysctl["value"].split())
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            ports = [int(v) for key, v in group["rayStartParams"].items() if key.endswith("port")]
            assert len(ports) >= 8
            assert not [port for port in ports if first <= port <= last]


def test_monitoring() -> None:
    objects = rendered(CI / "monitoring-values.yaml")
    monitor, service = named(objects, "ServiceMonitor"), named(objects, "Service", "mesh-expertmesh-metrics")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    prometheus = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    (endpoint,) = monitor["spec"]["endpoints"]
    assert {"targetLabel": "job", "replacement": prometheus["scrape_configs"][0]["job_name"]} in endpoint["relabelings"]
    assert {one["port"] for one in monitor["spec"]["endpoints"]} <= {one["name"] for one in service["spec"]["ports"]}
    pod_monitor = named(objects, "PodMonitor")
    for pod in ray_pods(objects).values():
        assert pod_monitor["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
        names = {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
        assert {one["port"] for one in pod_monitor["spec"]["podMetricsEndpoints"]} <= names


def test_copies_are_equal() -> None:
    assert sync.present() == sync.wanted()


def test_values_table() -> None:
    assert values_table.readme() == values_table.README.read_text()


def test_every_value_is_described() -> None:
    table = values_table.readme()
    keys = set(yaml.safe_load((CHART / "values.yaml").read_text()))
    assert {key for key in keys if not re.search(rf"^\| `{key}[.`]", table, re.MULTILINE)} == set()


def test_the_secret_is_drawn_and_long() -> None:
    drawn = [
        named(rendered(file), "Secret", "mesh-expertmesh-secret")["data"]["secret"]
        for file in (CI / "default-values.yaml", CI / "open-values.yaml")
    ]
    assert drawn[0] != drawn[1]
    assert [len(one) for one in drawn] == [64, 64]


def test_account_has_no_rights() -> None:
    for file in CASES.values():
        objects = rendered(file)
        assert not [one for one in objects if one["kind"].endswith(("Role", "RoleBinding"))]
        assert all(one["automountServiceAccountToken"] is False for one in objects if one["kind"] == "ServiceAccount")


def test_large_numbers_stay_whole() -> None:
    args = serve_config(rendered(DEFAULT, sets=("config.router.kv_cache_tokens=16777216",)))["applications"][0]["args"]
    assert args["router"]["kv_cache_tokens"] == 16777216


def test_a_new_chart_alone_does_not_replace_the_pods() -> None:
    """KubeRay builds a new cluster when the pods' templates differ."""
    for pod in ray_pods(rendered(DEFAULT)).values():
        assert not {"helm.sh/chart", "app.kubernetes.io/version"} & pod["metadata"]["labels"].keys()
