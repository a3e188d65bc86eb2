"""Builds the native library when pip installs the package or makes a wheel of it (`pyproject.toml`).

It runs in pip's own environment, where neither torch nor this package is: `build.py` is loaded by its path.
"""

import subprocess
import sysconfig
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HERE = Path("kernels", "native")


class NativeBuildHook(BuildHookInterface):
    """A wheel carries the library and a platform's tag; an editable installation has it in the checkout."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build it; without a compiler the wheel is for any platform, and a line says what is missing."""
        build = _module(Path(self.root, HERE, "build.py"))
        if version == "editable":
            self.app.display_info(f"native kernels: {build.build_if_possible()}")
            return
        self._folder = TemporaryDirectory()
        name = build.LIBRARY.name
        try:
            library = build.build(Path(self._folder.name, name))
        except (build.NoCompilerError, subprocess.CalledProcessError) as error:
            self.app.display_warning(f"WITHOUT native kernels: {build.reason(error)}")
            return
        build_data["force_include"][str(library)] = str(HERE / name)
        build_data["pure_python"] = False
        # It depends on the C library alone, not on Python or torch. No manylinux tag: nothing has checked how old a C
        # library it runs with.
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002 (its form)
        """Remove what was built in between."""
        if hasattr(self, "_folder"):
            self._folder.cleanup()


def _module(path: Path) -> ModuleType:
    spec = spec_from_file_location("expertmesh_native_build", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
