"""A real Prometheus on loopback, with our configuration and rules, their durations divided by one factor."""

import json
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.dashboards.live.scale import scaled, scaled_rules
from tests.dashboards.live.waiting import wait_until
from tests.dashboards.promtool import program
from tests.dashboards.rules import PROMETHEUS, RULE_FILES

STATIC, DISCOVERED = "prometheus.yml", "prometheus-http-sd.yml"
READY_S = 30.0
STOP_S = 20.0


@dataclass(frozen=True)
class Prometheus:
    """Asks a running Prometheus."""

    url: str

    def get(self, path: str, **parameters: Any) -> Any:
        """The `data` of an answer.

        Raises:
            AssertionError: Prometheus refused the question, in its words.
        """
        query = urllib.parse.urlencode(parameters, doseq=True)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=15) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error

    def query(self, expr: str, at: float) -> list[dict[str, Any]]:
        """An expression's samples at a moment."""
        result = self.get("query", query=expr, time=at)
        assert result["resultType"] == "vector", f"{expr} is a {result['resultType']}"
        return list(result["result"])

    def firing(self) -> set[str]:
        """The alerts that fire now, by `alert_id`."""
        alerts = self.get("alerts")["alerts"]
        return {alert_id(alert["labels"]) for alert in alerts if alert["state"] == "firing"}

    def firing_times(self, alert: str, begin: float, end: float) -> list[float]:
        """Seconds in which an alert, by `alert_id`, fired for anyone."""
        name, _, window = alert.partition("/")
        expr = f'max(ALERTS{{alertname="{name}", window="{window}", alertstate="firing"}})'
        series = self.get("query_range", query=expr, start=begin, end=end, step=1)["result"]
        return [float(at) for one in series for at, _ in one["values"]]


def alert_id(labels: Mapping[str, str]) -> str:
    """An alert's name, and its window where it has several."""
    return "/".join([labels["alertname"], *([labels["window"]] if "window" in labels else [])])


@contextmanager
def prometheus(folder: Path, target: str, configuration: str = STATIC) -> Iterator[Prometheus]:
    """Run Prometheus until the block ends. It keeps everything in `folder` and scrapes `target`, or what that lists."""
    folder.mkdir(exist_ok=True)
    address = f"127.0.0.1:{free_port()}"
    config = _write_config(folder, target, configuration)
    command = [program("prometheus"), f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)
    try:
        wait_until("Prometheus is ready", READY_S, lambda: _ready(process, address, folder))
        yield Prometheus(f"http://{address}")
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_S)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _write_config(folder: Path, target: str, configuration: str) -> Path:
    """Our own configuration: what changes are the durations, the target, and where the rules lie."""
    config = yaml.safe_load((PROMETHEUS / configuration).read_text())
    for key in ("scrape_interval", "evaluation_interval"):
        config["global"][key] = scaled(config["global"][key])
    (job,) = config["scrape_configs"]
    if configuration == STATIC:
        job["static_configs"] = [{"targets": [target]}]
    else:
        job["http_sd_configs"] = [{"url": f"http://{target}/sd", "refresh_interval": scaled("30s")}]
    config["rule_files"] = [str(_write_rules(folder, path)) for path in RULE_FILES]
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    return path


def _write_rules(folder: Path, path: Path) -> Path:
    # Recordings and alerts have files of the same name.
    written = folder / f"{path.parent.name}-{path.name}"
    written.write_text(yaml.safe_dump(scaled_rules(path)))
    return written


def _ready(process: "subprocess.Popen[bytes]", address: str, folder: Path) -> bool:
    assert process.poll() is None, (folder / "prometheus.log").read_text()[-4000:]
    try:
        with urllib.request.urlopen(f"http://{address}/-/ready", timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False
