"""One server of the bundled model in float32, as the harness's own backend computes it, for all clients."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.server import serving

BUNDLED = Path(__file__).parents[2] / "cluster" / "bundled"
HTTP = re.compile(r"http=(\S+?)/? ")


@dataclass(frozen=True)
class Api:
    """The address of the API, and the model's name there."""

    root: str
    model: str

    @property
    def url(self) -> str:
        """What clients call the base URL."""
        return f"{self.root}/v1"


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    log = tmp_path_factory.mktemp("clients") / "log"
    ports = ("--grpc-port", "0", "--metrics-port", "0", "--http-port", "0")
    with serving("--shards", "1", "--dtype", "float32", "--tool-parser", "hermes", *ports, log=log):
        found = HTTP.search(log.read_text())
        assert found, log.read_text()[-2000:]
        yield Api(found[1], "expertmesh-bundled")
