"""Versions in labels, which take less than a version may have, and what Ray's processes are started with."""

import re
import shutil
from pathlib import Path

import pytest
import yaml

from tests.helm.chart import CHART, KUBERNETES, Object, helm, named, ray_pods, rendered

LABEL = re.compile(r"(?=.{1,63}$)[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")


def of_version(folder: Path, version: str) -> list[Object]:
    """The objects of a chart whose own version and whose application's are this."""
    chart = folder / "expertmesh"
    shutil.copytree(CHART, chart)
    about = yaml.safe_load((chart / "Chart.yaml").read_text())
    (chart / "Chart.yaml").write_text(yaml.safe_dump(about | {"version": version, "appVersion": version}))
    done = helm("template", "mesh", str(chart), "--kube-version", KUBERNETES)
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one is not None]


@pytest.mark.parametrize(
    ("version", "label"),
    [
        ("0.1.0+build.7", "0.1.0_build.7"),
        ("0.1.0-rc.1+" + "a" * 80, "0.1.0-rc.1_" + "a" * 80),
        ("0.1.0+" + "a" * 45 + "-" * 20 + "b", "0.1.0_" + "a" * 45 + "-" * 20 + "b"),
    ],
)
def test_a_version_is_a_label(tmp_path: Path, version: str, label: str) -> None:
    labels = named(of_version(tmp_path, version), "RayService")["metadata"]["labels"]
    for key, whole in (("app.kubernetes.io/version", label), ("helm.sh/chart", f"expertmesh-{label}")):
        assert LABEL.fullmatch(labels[key])
        assert labels[key] == whole[:63].rstrip("-_.")


def test_a_version_is_a_tag(tmp_path: Path) -> None:
    pods = ray_pods(of_version(tmp_path, "0.1.0+build.7"))
    assert {pod["spec"]["containers"][0]["image"] for pod in pods.values()} == {"expertmesh:0.1.0_build.7-cpu"}


def test_all_pods_of_ray_keep_their_priority_and_rotate_their_logs() -> None:
    wanted = {"RAY_worker_niceness": "0", "RAY_ROTATION_MAX_BYTES": "104857600", "RAY_ROTATION_BACKUP_COUNT": "5"}
    own = {"RAY_worker_niceness": "0", "RAY_ROTATION_MAX_BYTES": "10485760000", "RAY_ROTATION_BACKUP_COUNT": "9"}
    for sets, values in (((), wanted), (("rayLogs.maxBytes=10485760000", "rayLogs.backupCount=9"), own)):
        for pod in ray_pods(rendered(sets=sets)).values():
            env = {one["name"]: one["value"] for one in pod["spec"]["containers"][0]["env"]}
            assert env.items() >= values.items()
