"""Checkpoint files made to harm: each is refused at once, and nothing of what they hold runs or is opened."""

import json
import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.server import environment
from tests.support.tiny import Tiny

# An interpreter with torch has about 250 MiB; what a file of a gigabyte holds would show.
ALLOWED_BYTES = 700 << 20
ALLOWED_CPU_SECONDS = 20.0
GIGABYTE = 1 << 30
OPEN = """
import json, re, sys, time
from pathlib import Path
opened = []
sys.addaudithook(lambda event, args: opened.append((event, str(args[0]))) if watched(event) else None)
def watched(event):
    return event in ("open", "pickle.find_class", "compile", "exec", "import", "os.system", "subprocess.Popen")
from cluster.planner.model import open_model
from cluster.config import ModelConfig
from experts.config import WeightsConfig
from router_service.text.text_model import load_text_model
directory, said = Path(sys.argv[1]), None
begun = time.process_time()
del opened[:]
try:
    model = open_model(ModelConfig(checkpoint=str(directory)), WeightsConfig(resident="packed"), verify=True)
    load_text_model(model.plan.checkpoint.path)
except ValueError as error:
    said = f"{type(error).__name__}: {error}"
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
seen = [entry for entry in opened if entry[0] == "pickle.find_class" or str(directory) in entry[1]]
print(json.dumps([said, time.process_time() - begun, peak, seen]))
"""


@pytest.fixture
def directory(tiny: Callable[..., Tiny], tmp_path: Path) -> Path:
    """A copy of a good checkpoint, for a test to spoil."""
    for file in tiny("mixtral").path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def open_in_a_process(directory: Path) -> tuple[str | None, list[tuple[str, str]]]:
    """Return the error that opening the checkpoint ends with, and what was opened of it."""
    done = subprocess.run(
        [sys.executable, "-c", OPEN, str(directory)], capture_output=True, text=True, timeout=120, env=environment()
    )
    assert done.returncode == 0, done.stderr
    said, seconds, peak, seen = json.loads(done.stdout)
    print(f"{seconds:.2f} s of processor time, {peak / 2**20:.0f} MiB: {said}")
    assert seconds < ALLOWED_CPU_SECONDS
    assert peak < ALLOWED_BYTES
    return said, [(event, name) for event, name in seen]


def sparse(file: Path, size: int) -> None:
    """Make a file of `size` bytes that takes no room on the disk."""
    file.unlink(missing_ok=True)
    with file.open("wb") as stream:
        stream.truncate(size)


def header(directory: Path, length: int, rest: bytes = b"{}") -> None:
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", length) + rest)


def index(directory: Path, name: str) -> None:
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))


def link(directory: Path, name: str, to: str) -> None:
    (directory / name).unlink(missing_ok=True)
    (directory / name).symlink_to(to)


def pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def write(name: str, content: str) -> Callable[[Path], object]:
    return lambda directory: (directory / name).write_text(content)


NESTED = '{"a":' * 200_000
HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a header of 2^63 bytes": (lambda d: header(d, 1 << 63), "header of 9223372036854775808 bytes in a file of"),
    "a header of a file of 1 GiB": (lambda d: header(d, 1 << 30, bytes(8)), "header of 1073741824 bytes"),
    "a nested header": (lambda d: header(d, len(NESTED), NESTED.encode()), "not a safetensors file: maximum recursion"),
    "an index that leaves the directory": (lambda d: index(d, "../model.safetensors"), "lies outside"),
    "an index with an absolute path": (lambda d: index(d, "/etc/passwd"), "lies outside"),
    "a nested config.json": (write("config.json", NESTED), "config.json: cannot be read as JSON: maximum recursion"),
    "a nested tokenizer_config.json": (
        write("tokenizer_config.json", NESTED),
        "er_config.json: cannot be read as JSON: maximum recursion",
    ),
    "a nested tokenizer.json": (write("tokenizer.json", NESTED), "tokenizer.json: "),
    "a config.json of 1 GiB": (lambda d: sparse(d / "config.json", GIGABYTE), "1073741824 bytes, at most 67108864"),
    "a tokenizer.json of 1 GiB": (
        lambda d: sparse(d / "tokenizer.json", GIGABYTE),
        "tokenizer.json: has 1073741824 bytes, at most 134217728 (128 MiB) are read",
    ),
    "an index of 1 GiB": (lambda d: sparse(d / "model.safetensors.index.json", GIGABYTE), "at most 67108864"),
    "a chat template of 1 GiB": (lambda d: sparse(d / "chat_template.jinja", GIGABYTE), "at most 1048576"),
    "a generation_config.json of 1 GiB": (
        lambda d: sparse(d / "generation_config.json", GIGABYTE),
        "generation_config.json: has 1073741824 bytes",
    ),
    "a config.json without end": (lambda d: link(d, "config.json", "/dev/zero"), "config.json: no ordinary file"),
    "a tokenizer.json without end": (lambda d: link(d, "chat_template.jinja", "/dev/zero"), "no ordinary file"),
    "a pipe": (lambda d: pipe(d / "generation_config.json"), "generation_config.json: no ordinary file"),
    "a template that computes": (
        write("chat_template.jinja", "{{ 10 ** 99999999 % 7 }}"),
        "chat_template.jinja: chat_template: it takes more than",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused(directory: Path, name: str) -> None:
    spoil, expected = HOSTILE[name]
    spoil(directory)
    said, _ = open_in_a_process(directory)
    assert said is not None
    assert said.startswith("CheckpointError: ")
    assert expected in said
    assert str(directory) in said


class Trap:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


def test_no_pickle_is_opened_and_no_code_runs(directory: Path) -> None:
    mark = directory / "it ran"
    names = ("pytorch_model.bin", "pytorch_model-00001-of-00001.bin", "training_args.bin", "consolidated.00.pth")
    for name in names:
        (directory / name).write_bytes(pickle.dumps(Trap(mark)))
    for name in ("modeling_mixtral.py", "tokenization_x.py", "configuration_x.py", "__init__.py", "conftest.py"):
        (directory / name).write_text(f"import os; os.mkdir({str(mark)!r})")
    config = json.loads((directory / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_mixtral.MixtralForCausalLM"}
    (directory / "config.json").write_text(json.dumps(config))
    said, seen = open_in_a_process(directory)
    assert said is None
    assert not mark.exists()
    touched = {Path(name).name for event, name in seen if event == "open"}
    assert touched >= {"config.json", "model.safetensors"}
    assert {event for event, _ in seen} <= {"open", "subprocess.Popen"}
    assert not {name for name in touched if name.endswith((".bin", ".pth", ".py"))}


def test_a_checkpoint_of_pickles_alone_is_refused(directory: Path) -> None:
    mark = directory / "it ran"
    (directory / "model.safetensors").unlink()
    (directory / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(mark)))
    said, seen = open_in_a_process(directory)
    assert said is not None
    assert "no safetensors weights" in said
    assert not mark.exists()
    assert not [name for _, name in seen if name.endswith(".bin")]


def test_links_out_of_the_directory_are_followed_as_in_a_cache(directory: Path) -> None:
    blobs = directory.with_name("blobs")
    blobs.mkdir()
    for file in list(directory.iterdir()):
        file.rename(blobs / file.name)
        file.symlink_to(blobs / file.name)
    assert open_in_a_process(directory)[0] is None
