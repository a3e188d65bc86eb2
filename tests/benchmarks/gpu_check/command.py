"""Checks one NVIDIA GPU in at most eight minutes: kernels against float64, speeds, a served model. `make gpu-check`.

    python -m tests.benchmarks.gpu_check --out build/gpu-check.json

Needs torch, Triton and numpy; its last part also msgspec, psutil and pyyaml. No Ray, no network. Exits with 0 where all
is as it should be, 1 where anything failed, 2 where there is no GPU. With TRITON_INTERPRET=1 and --small it runs a few
small cases on the CPU: what it does can be tested there, and its times mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.gpu_check.parts import PARTS, find, run, setting_of


def main() -> int:
    """Run the chosen parts, print what they found, write it as JSON; return the exit status."""
    args = arguments()
    if args.small and not os.environ.get("TRITON_INTERPRET"):
        print("gpu-check: --small runs in Triton's interpreter: set TRITON_INTERPRET=1")
        return 2
    if not args.small and not torch.cuda.is_available():
        print("gpu-check: torch sees no NVIDIA GPU here; nothing was checked")
        return 2
    if args.part:
        found = find(next(part for part in PARTS if part.name == args.part), setting_of(args.small))
        args.out.write_text(json.dumps(found.as_json()))
        return 0
    report = {"machine": machine(args.small), "parts": []}
    for part in PARTS:
        print(f"== {part.name} (at most {part.seconds:.0f} s)", flush=True)
        report["parts"].append(run(part, args.small))
        show(report["parts"][-1])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1))
    failed = [part["part"] for part in report["parts"] if part["faults"]]
    print(f"gpu-check: {'failed: ' + ', '.join(failed) if failed else 'all is well'}; details in {args.out}")
    return 1 if failed else 0


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/gpu-check.json"), help="where the report goes")
    parser.add_argument("--small", action="store_true", help="a few small cases in Triton's interpreter")
    parser.add_argument("--part", choices=[part.name for part in PARTS], help="one part alone, in this process")
    return parser.parse_args()


def machine(small: bool) -> dict[str, Any]:
    """What the figures are of."""
    import triton

    versions = {"torch": torch.__version__, "triton": triton.__version__, "cuda": torch.version.cuda}
    if small:
        return {"device": "cpu, Triton interpreted"} | versions
    properties = torch.cuda.get_device_properties(0)
    memory = {"memory_bytes": properties.total_memory, "capability": [properties.major, properties.minor]}
    return {"device": properties.name} | memory | versions


def show(report: dict[str, Any]) -> None:
    """Print what a part found."""
    print("\n".join([*report["lines"], *(f"FAULT {fault}" for fault in report["faults"])]))
    print(f"({report['seconds']:.0f} s)", flush=True)
