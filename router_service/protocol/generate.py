"""Regenerate the checked-in stubs: `python -m router_service.protocol.generate [DIRECTORY]`.

Needs grpcio-tools, which only development does. A test runs it into a temporary directory and compares.
"""

import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def generate(output: Path) -> None:
    """Write `router_service/protocol/*_pb2*` below `output`.

    Raises:
        RuntimeError: protoc refused a file; it has said why on stderr.
    """
    from grpc_tools import protoc

    protos = [str(path.relative_to(ROOT)) for path in sorted(HERE.glob("*.proto"))]
    options = [f"--{kind}_out={output}" for kind in ("python", "pyi", "grpc_python")]
    if protoc.main(["protoc", f"--proto_path={ROOT}", *options, *(str(ROOT / name) for name in protos)]):
        raise RuntimeError("protoc failed")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
