"""The image: linted, what it copies, and built and run for real where buildah can be had (`make image-test`)."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.e2e.server import READY
from tests.helm.chart import CACHE, CHART, ROOT

HERE = Path(__file__).parent
DOCKERFILE = ROOT / "deploy" / "docker" / "Dockerfile"
TAG = "localhost/expertmesh:test"
NOT_HERE = 77


def test_lint() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([str(hadolint), str(DOCKERFILE)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_what_it_copies_is_let_through() -> None:
    """The ignore file lets through what the Dockerfile copies, and nothing else."""
    copied = {
        word
        for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE.read_text(), re.M)
        for word in line.split()[:-1]
    }
    let = re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert {one.removesuffix("/**") for one in let} == copied
    assert all((ROOT / one).exists() for one in copied)


def test_version_is_the_charts() -> None:
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    assert f'version = "{version}"' in (ROOT / "pyproject.toml").read_text()
    assert f"expertmesh:{version}-cpu" in DOCKERFILE.read_text()


@pytest.fixture(scope="module")
def work() -> Path:
    """Where the image was built; the base is kept in the user's cache."""
    folder = Path(os.environ.get("EXPERTMESH_IMAGE_WORK", CACHE / "image"))
    done = subprocess.run(
        ["bash", str(HERE / "build_image.sh"), str(folder), TAG], capture_output=True, text=True, timeout=1500
    )
    if done.returncode == NOT_HERE:
        pytest.skip(f"the image cannot be built here: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def run(work: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    script = ["bash", str(HERE / "run_image.sh"), str(work), TAG, *command]
    return subprocess.run(script, capture_output=True, text=True, timeout=300)


@pytest.fixture
def served(work: Path, tmp_path: Path) -> Iterator[str]:
    """The bundled model served by the image with a read-only root; the address of its metrics page is printed too."""
    log = tmp_path / "log"
    script = ["bash", str(HERE / "run_image.sh"), str(work), TAG, "expertmesh", "serve", "--shards", "2"]
    with log.open("w") as output:
        process = subprocess.Popen(script, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    deadline = time.monotonic() + 240
    while not (ready := READY.search(log.read_text())):
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.3)
    yield ready[1]
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 0, log.read_text()[-3000:]


def image(test: Callable[..., None]) -> Callable[..., None]:
    """A test that builds the image, or runs it."""
    return pytest.mark.e2e(pytest.mark.timeout(1800)(test))


@image
def test_says_help(work: Path) -> None:
    done = run(work, "expertmesh", "--help")
    assert done.returncode == 0, done.stderr
    assert "serve" in done.stdout


@image
def test_is_not_root_and_writes_nowhere_but_tmp(work: Path) -> None:
    code = "import os; print(os.getuid(), os.getgid()); open('/tmp/x', 'w'); open('/opt/expertmesh/x', 'w')"
    done = run(work, "python3", "-c", code)
    assert done.stdout.split() == ["1000", "1000"]
    assert "Read-only file system" in done.stderr
    found = run(work, "find", "/", "-xdev", "-writable", "-not", "-type", "l", "-not", "-path", "/proc/*")
    assert set(found.stdout.split()) <= {"/tmp", "/var/tmp", "/run/lock"}


@image
def test_configuration(work: Path) -> None:
    store = ["--root", str(work / "storage"), "--runroot", str(work / "run"), "--storage-driver", "vfs"]
    done = subprocess.run(
        ["buildah", *store, "inspect", "--type", "image", TAG], capture_output=True, text=True, check=True
    )
    config = json.loads(done.stdout)["Docker"]["config"]
    assert config["User"] == "1000:1000"
    assert config["Healthcheck"]["Test"] == ["CMD", "expertmesh", "status"]
    assert config["Entrypoint"] == ["expertmesh"]
    assert not [one for one in config["Env"] if one.startswith("PIP_")]


@image
def test_serves_with_a_read_only_root(work: Path, served: str) -> None:
    health = run(work, "expertmesh", "status", "--target", served)
    assert health.returncode == 0, health.stderr
    answer = run(work, "expertmesh", "generate", "def main(", "--max-tokens", "8", "--json", "--target", served)
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["text"]


@image
def test_has_what_kuberay_starts_it_with(work: Path) -> None:
    """KubeRay runs `/bin/bash -c "ulimit -n 65536; ray start ..."` and its init container `ray health-check`."""
    done = run(
        work,
        "/bin/bash",
        "-c",
        "ray --version && ray health-check --help >/dev/null && python3 -c 'import ray.dashboard.optional_deps'",
    )
    assert done.returncode == 0, done.stderr
