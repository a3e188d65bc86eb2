"""What pip installs: the packages, and the files among them that are no Python."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cluster.planner.published_models import published_names
from kernels.native.build import LIBRARY

REPOSITORY = Path(__file__).parents[3]
PACKAGES = ("cluster", "experts", "kernels", "router_service")


def wheel(work: Path, path: str) -> Path:
    """A wheel, made with `path` as PATH. pip builds it with hatchling from the index; without an index it cannot."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(work), str(REPOSITORY)]
    environment = os.environ | {"PATH": path, "CXX": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode and "hatchling" in done.stderr:
        pytest.skip("no package index to build with")
    assert done.returncode == 0, done.stderr
    (made,) = work.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unpacked wheel."""
    work = tmp_path_factory.mktemp("wheel")
    with zipfile.ZipFile(wheel(work, os.environ["PATH"])) as archive:
        archive.extractall(work / "installed")
    return work / "installed"


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
def test_it_has_the_native_kernels_and_a_tag_of_this_platform(installed: Path) -> None:
    assert (installed / "kernels" / "native" / LIBRARY.name).is_file()
    (metadata,) = installed.glob("*.dist-info/WHEEL")
    assert "Root-Is-Purelib: false\nTag: py3-none-linux_" in metadata.read_text()


def test_without_a_compiler_it_is_for_any_platform(tmp_path: Path) -> None:
    made = wheel(tmp_path, str(tmp_path / "empty"))
    assert made.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(made) as archive:
        assert [name for name in archive.namelist() if name.endswith(".so")] == []


def contents(root: Path) -> dict[str, bytes]:
    """Each file of the packages below `root` by its path, without what Python and the compiler leave there."""
    files = (file for package in PACKAGES for file in (root / package).rglob("*") if file.is_file())
    sources = (file for file in files if "__pycache__" not in file.parts and file.name != LIBRARY.name)
    return {str(file.relative_to(root)): file.read_bytes() for file in sources}


def test_it_has_all_files_of_the_packages_and_nothing_else(installed: Path) -> None:
    tops = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert tops == set(PACKAGES)
    shapes = {f"cluster/models/{file.name}" for file in (REPOSITORY / "deploy" / "models").iterdir()}
    ours, theirs = contents(REPOSITORY), contents(installed)
    assert set(theirs) == {*ours, *shapes}
    assert [name for name, content in ours.items() if theirs[name] != content] == []


def test_it_has_the_live_page_and_the_bundled_model(installed: Path) -> None:
    """By name: whoever moves them out of the packages must move this too."""
    page, bundled = installed / "router_service" / "front" / "page" / "static", installed / "cluster" / "bundled"
    assert {"index.html", "main.js", "base.css", "icon.svg"} <= {file.name for file in page.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in bundled.iterdir()}


SERVE = """
from cluster.config import BUNDLED, config_from
from cluster.planner.model import open_model
from router_service.front.http.assets import load_assets
config = config_from({})
model = open_model(config.model, config.weights, verify=True)
print(BUNDLED.parents[1], model.name, "/main.js" in load_assets())
"""


def run(installed: Path, program: str) -> list[str]:
    """The words that a program prints in a process that sees nothing of the checkout."""
    command, env = [sys.executable, "-P", "-c", program], {"PYTHONPATH": str(installed)}
    done = subprocess.run(command, cwd=installed, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_it_serves_them(installed: Path) -> None:
    assert run(installed, SERVE) == [str(installed), "expertmesh-bundled", "True"]


SHAPES = """
from cluster.planner.inspected_model import open_inspected_model
from cluster.planner.published_models import published_names
print(open_inspected_model("mixtral-8x7b").where, *published_names())
"""


def test_it_has_the_shapes_of_published_models(installed: Path) -> None:
    where, *names = run(installed, SHAPES)
    assert "deepseek-v3" in names
    assert names == published_names()
    assert where.startswith(str(installed))
