"""The environment of its own that the clients are installed in, and how their programs are run there."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(os.environ.get("EXPERTMESH_CLIENTS", ROOT / ".venv-clients")) / "bin"
SCRIPTS = Path(__file__).parent / "scripts"
SECONDS = 280.0


def require(program: str) -> Path:
    """Return a program of the environment, or skip the test."""
    if not (BIN / program).exists():
        pytest.skip(f"{program} is not installed: `make clients-test` installs the clients into .venv-clients")
    return BIN / program


def run_client(program: str, *arguments: str, variables: dict[str, str] | None = None) -> str:
    """Run a client to its end and return what it prints.

    Nothing may be looked up elsewhere: models and tasks are files of this checkout.
    """
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OPENAI_API_KEY": "none"}
    surroundings = os.environ | offline | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"} | (variables or {})
    surroundings.pop("PYTHONPATH", None)
    done = subprocess.run(
        [require(program), *arguments], capture_output=True, text=True, timeout=SECONDS, env=surroundings
    )
    assert done.returncode == 0, f"{program} {' '.join(arguments)}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def run_script(name: str, *arguments: str) -> str:
    """Run one of our scripts there."""
    return run_client("python", str(SCRIPTS / name), *arguments)
