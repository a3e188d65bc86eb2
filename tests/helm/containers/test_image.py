"""The image: linted, what it copies, and built and run for real where buildah can be had (`make image-test`)."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from router_service.front.http.assets import load_assets
from tests.e2e.server import READY
from tests.helm.chart import CACHE, CHART, ROOT

HERE = Path(__file__).parent
DOCKERFILE = ROOT / "deploy" / "docker" / "Dockerfile"
TAG = "localhost/expertmesh:test"
CUDA_TAG = "localhost/expertmesh:test-cuda"
NOT_HERE = 77
PAGE = re.compile(r" http=(\S+)/")
METRICS = re.compile(r" metrics=(\S+)/metrics")


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


def test_it_is_built_from_the_repository() -> None:
    """The script finds its root from where it lies itself."""
    script = HERE / "build_image.sh"
    (line,) = re.findall(r"^root=.*$", script.read_text(), re.M)
    done = subprocess.run(
        ["bash", "-c", f"{line}; echo $root", str(script)], capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()) == ROOT


def built(tag: str, flavor: str) -> Path:
    """Build an image and return where; the user's cache keeps the base. Skips the test where that cannot be done."""
    folder = Path(os.environ.get("EXPERTMESH_IMAGE_WORK", CACHE / "image"))
    script = ["bash", str(HERE / "build_image.sh"), str(folder), tag, flavor]
    done = subprocess.run(script, capture_output=True, text=True, timeout=1500)
    if done.returncode == NOT_HERE:
        pytest.skip(f"the image cannot be built here: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def work() -> Path:
    """Where the image of flavor cpu was built."""
    return built(TAG, "cpu")


def run(work: Path, *command: str, tag: str = TAG) -> "subprocess.CompletedProcess[str]":
    script = ["bash", str(HERE / "run_image.sh"), str(work), tag, *command]
    return subprocess.run(script, capture_output=True, text=True, timeout=300)


def test_what_users_configure_is_installed() -> None:
    """Tracing is a key of the configuration like others: the image has the extra that it needs."""
    assert re.search(r"pip install .*'\.\[tracing\]'", DOCKERFILE.read_text())


def test_health_is_asked_where_it_serves_by_default() -> None:
    text = DOCKERFILE.read_text()
    (target,) = re.findall(r"EXPERTMESH_TARGET=127\.0\.0\.1:(\d+)", text)
    assert f'CMD ["serve", "--grpc-port", "{target}"' in text


@pytest.fixture(scope="module")
def log(work: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What the image said when it served the bundled model with a read-only root, its ready line among it."""
    log = tmp_path_factory.mktemp("image") / "log"
    script = ["bash", str(HERE / "run_image.sh"), str(work), TAG, "expertmesh", "serve", "--shards", "2"]
    with log.open("w") as output:
        process = subprocess.Popen(script, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    deadline = time.monotonic() + 240
    while not READY.search(log.read_text()):
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.3)
    yield log.read_text()
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 0, log.read_text()[-3000:]


@pytest.fixture
def served(log: str) -> str:
    """The address of its gRPC port."""
    ready = READY.search(log)
    assert ready
    return ready[1]


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


def configuration(work: Path) -> dict[str, Any]:
    store = ["--root", str(work / "storage"), "--runroot", str(work / "run"), "--storage-driver", "vfs"]
    command = ["buildah", *store, "inspect", "--type", "image", TAG]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    config: dict[str, Any] = json.loads(done.stdout)["Docker"]["config"]
    return config


@image
def test_configuration(work: Path) -> None:
    config = configuration(work)
    assert config["User"] == "1000:1000"
    assert config["Healthcheck"]["Test"][:3] == ["CMD", "python3", "-c"]
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
def test_health_is_what_the_server_says(work: Path, log: str) -> None:
    """The image's own command, within its time; it fails where nobody answers."""
    health = configuration(work)["Healthcheck"]
    kind, *command = health["Test"]
    assert kind == "CMD"
    in_time = ["timeout", str(health["Timeout"] / 1e9), *command]
    page = METRICS.search(log)
    assert page
    well = run(work, "env", f"EXPERTMESH_HEALTH={page[1]}/healthz", *in_time)
    assert well.returncode == 0, well.stderr
    assert run(work, "env", "EXPERTMESH_HEALTH=http://127.0.0.1:1/healthz", *command).returncode == 1


@image
def test_has_the_live_page(log: str) -> None:
    """Every file of the page's folder: the wheel that the image installs has package data too."""
    page = PAGE.search(log)
    assert page
    for path, (content, kind) in load_assets().items():
        with urllib.request.urlopen(page[1] + path, timeout=30) as answer:
            assert (answer.headers.get_content_type(), answer.read()) == (kind, content)


@image
def test_can_trace(work: Path) -> None:
    done = run(work, "python3", "-c", "import router_service.front.telemetry.spans")
    assert done.returncode == 0, done.stderr


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


@image
def test_has_the_probe_of_pods_that_compute(work: Path) -> None:
    done = run(work, "python3", "-P", "-m", "cluster.serve.readiness_probe")
    assert (done.returncode, done.stdout.partition(":")[0]) == (1, "Ray does not answer"), done.stderr


# As Triton's driver does when it first starts, with a module of one function.
TRITON_BUILDS = """
from triton.runtime.build import compile_module_from_src

SOURCE = '''
#include <Python.h>
#include <stdlib.h>
static PyObject *answer(PyObject *self, PyObject *none) { return PyLong_FromLong(labs(-42)); }
static PyMethodDef methods[] = {{"answer", answer, METH_NOARGS, 0}, {0}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "tiny", 0, -1, methods};
PyMODINIT_FUNC PyInit_tiny(void) { return PyModule_Create(&module); }
'''
print(compile_module_from_src(SOURCE, "tiny").answer())
"""


def test_only_the_flavor_with_triton_has_a_compiler() -> None:
    text = DOCKERFILE.read_text()
    assert re.search(r'if \[ "\$FLAVOR" = cuda \]; then \\\n.*apt-get install .* gcc=\S+ libc6-dev=\S+; \\', text)


def test_the_compiler_of_the_native_kernels_stays_behind() -> None:
    build, final = re.split(r"^FROM \$\{BASE\}$", DOCKERFILE.read_text(), flags=re.M)
    assert " g++=" in build
    assert "g++" not in final


@image
def test_has_the_native_kernels(work: Path) -> None:
    done = run(work, "python3", "-c", "from kernels.native.library import library; print(library().instruction_sets)")
    assert done.returncode == 0, done.stderr
    assert run(work, "sh", "-c", "command -v g++").returncode != 0


@image
def test_triton_compiles_its_driver() -> None:
    """The image has the compiler and the headers that Triton starts with; no GPU is needed to see that."""
    folder = built(CUDA_TAG, "cuda")
    done = run(folder, "python3", "-c", TRITON_BUILDS, tag=CUDA_TAG)
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr[-3000:]
