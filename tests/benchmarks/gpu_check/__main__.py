"""Starts the check, or says in a line what must be installed first: it may run where little is."""

import sys
from importlib.util import find_spec

NEEDED = ("torch", "triton", "numpy")

if missing := [name for name in NEEDED if find_spec(name) is None]:
    sys.exit(f"gpu-check: not installed for {sys.executable}: {', '.join(missing)}")

from tests.benchmarks.gpu_check.command import main  # noqa: E402

sys.exit(main())
