"""docker compose: Compose itself reads the file, and it fits the rest. No engine starts it where tests run."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.config import load_config
from tests.helm.chart import ROOT
from tests.helm.containers.compose_tool import compose

COMPOSE = ROOT / "deploy" / "compose"
DOCKERFILE = (ROOT / "deploy" / "docker" / "Dockerfile").read_text()


def load(name: str) -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load((COMPOSE / name).read_text())
    return data


SERVICES = load("compose.yaml")["services"]


def defaulted(text: str) -> str:
    """Variables as compose fills them where none is set; `?` stays, since compose then refuses."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def binds(service: str) -> dict[str, Path]:
    """Mounted files and folders of the host by their place in the container."""
    mounts = [one for one in SERVICES[service].get("volumes", []) if isinstance(one, dict)]
    return {one["target"]: (COMPOSE / defaulted(one["source"])).resolve() for one in mounts if one["type"] == "bind"}


def test_compose_takes_the_file() -> None:
    done = compose("-f", str(COMPOSE / "compose.yaml"), "config", "--format", "json", GRAFANA_PASSWORD="x")
    assert (done.returncode, done.stderr) == (0, "")
    read = json.loads(done.stdout)
    assert set(read["services"]) == set(SERVICES)
    one = read["services"]["expertmesh"]
    assert one["build"] == {"context": str(ROOT), "dockerfile": "deploy/docker/Dockerfile", "args": {"FLAVOR": "cpu"}}
    assert (one["stop_grace_period"], one["shm_size"], one["init"]) == ("1m0s", str(1 << 30), True)
    assert one["volumes"][0]["source"] == str(COMPOSE / "empty")


def test_compose_mounts_the_checkpoint_that_is_named() -> None:
    variables = {"GRAFANA_PASSWORD": "x", "CHECKPOINT": "/models/mine"}
    done = compose("-f", str(COMPOSE / "compose.yaml"), "config", "--format", "json", **variables)
    assert json.loads(done.stdout)["services"]["expertmesh"]["volumes"][0]["source"] == "/models/mine"


def test_compose_refuses_to_start_without_a_password() -> None:
    done = compose("-f", str(COMPOSE / "compose.yaml"), "config")
    assert done.returncode != 0
    assert done.stderr.strip().endswith("required variable GRAFANA_PASSWORD is missing a value: set GRAFANA_PASSWORD")


def test_compose_would_find_a_wrong_key(tmp_path: Path) -> None:
    text = (COMPOSE / "compose.yaml").read_text().replace("read_only: true\n    tmpfs", "readonly: true\n    tmpfs")
    (tmp_path / "compose.yaml").write_text(text)
    done = compose("-f", str(tmp_path / "compose.yaml"), "config", GRAFANA_PASSWORD="x")
    assert done.returncode != 0
    assert "additional properties 'readonly' not allowed" in done.stderr


def test_the_application_takes_its_configuration() -> None:
    (used,) = SERVICES["expertmesh"]["configs"]
    file = COMPOSE / load("compose.yaml")["configs"][used["source"]]["file"]
    config = load_config(file, {})
    assert used["target"] in SERVICES["expertmesh"]["command"]
    published = {int(one.split(":")[-1]) for one in SERVICES["expertmesh"]["ports"]}
    assert published == {config.front.grpc_port, config.front.http_port}
    assert config.front.host == config.front.metrics_host == "0.0.0.0"
    seconds = int(SERVICES["expertmesh"]["stop_grace_period"].removesuffix("s"))
    assert seconds >= config.cluster.drain_seconds + 10


def test_prometheus_finds_the_application() -> None:
    (job,) = load("prometheus.yml")["scrape_configs"]
    config = load_config(COMPOSE / "expertmesh.yaml", {})
    (target,) = job["static_configs"][0]["targets"]
    host, port = target.split(":")
    assert host in SERVICES
    assert int(port) == config.front.metrics_port
    assert binds("prometheus")["/etc/prometheus/prometheus.yml"] == COMPOSE / "prometheus.yml"


def test_rules_are_mounted_where_prometheus_looks() -> None:
    """Relative patterns are of the configuration's own folder."""
    patterns = load("prometheus.yml")["rule_files"]
    theirs = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    assert patterns == theirs["rule_files"]
    for pattern in patterns:
        source = binds("prometheus")[str(Path("/etc/prometheus") / Path(pattern).parent)]
        assert list(source.glob(Path(pattern).name))
    assert load("prometheus.yml")["scrape_configs"][0]["job_name"] == theirs["scrape_configs"][0]["job_name"]


def test_grafana_finds_prometheus_and_dashboards() -> None:
    (source,) = load("datasources.yaml")["datasources"]
    host, port = source["url"].removeprefix("http://").split(":")
    assert host in SERVICES
    assert SERVICES["prometheus"]["ports"][0].endswith(f":{port}")
    provision = binds("grafana")["/etc/grafana/provisioning/dashboards/expertmesh.yaml"]
    (provider,) = yaml.safe_load(provision.read_text())["providers"]
    assert binds("grafana")[provider["options"]["path"]] == ROOT / "deploy" / "grafana" / "dashboards"
    assert "/etc/grafana/provisioning/datasources/expertmesh.yaml" in binds("grafana")
    assert "/etc/grafana/provisioning/dashboards/expertmesh.yaml" in binds("grafana")


@pytest.mark.parametrize("service", SERVICES)
def test_mounted_files_exist_and_are_read_only(service: str) -> None:
    mounts = [one for one in SERVICES[service].get("volumes", []) if isinstance(one, dict)]
    assert all(one["read_only"] for one in mounts)
    assert binds(service)
    assert [path for path in binds(service).values() if not path.exists()] == []


@pytest.mark.parametrize("service", SERVICES)
def test_services_are_confined(service: str) -> None:
    one = SERVICES[service]
    assert one["cap_drop"] == ["ALL"]
    assert one["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in one["ports"])
    assert re.search(r":[\w.-]*\d[\w.-]*$", one["image"]), "images are pinned by tag"


def test_build_is_of_the_dockerfile() -> None:
    build = SERVICES["expertmesh"]["build"]
    assert (COMPOSE / build["context"] / build["dockerfile"]).resolve() == ROOT / "deploy" / "docker" / "Dockerfile"
    assert all(f"ARG {name}" in DOCKERFILE for name in build["args"])
    assert SERVICES["expertmesh"]["image"].endswith("-cpu")


def test_no_password_is_given() -> None:
    assert SERVICES["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD"].startswith("${GRAFANA_PASSWORD:?")
