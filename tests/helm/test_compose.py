"""docker compose: no engine can be had where tests run, so the file is read and checked against the rest."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.config import load_config
from tests.helm.chart import ROOT

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


def test_the_application_takes_its_configuration() -> None:
    (used,) = SERVICES["expertmesh"]["configs"]
    file = COMPOSE / load("compose.yaml")["configs"][used["source"]]["file"]
    config = load_config(file, {})
    assert used["target"] in SERVICES["expertmesh"]["command"]
    published = {int(one.split(":")[-1]) for one in SERVICES["expertmesh"]["ports"]}
    assert config.front.grpc_port in published
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
