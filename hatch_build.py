"""
Compiles the hot path with mypyc, where the environment says AUTHZ_COMPILE=1 as a wheel is built. The same source, as it
stands; without that, and in an editable install, it is interpreted.
"""

import os
import tempfile
from pathlib import Path
from typing import Any, Final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


SWITCH: Final = "AUTHZ_COMPILE"
HOT: Final = (
    "authz/pipeline.py",
    "authz/adapters/envoy/answers.py",
    "authz/adapters/envoy/check.py",
    "authz/adapters/envoy/codec.py",
    "authz/adapters/envoy/ticket.py",
    "authz/adapters/http2/*.py",
    "authz/adapters/prometheus/tally.py",
    "authz/adapters/redis/ledger.py",
    "authz/adapters/redis/packing.py",
    "authz/core/headers.py",
    "authz/core/recent.py",
)
_OPTIONS: Final = ("--config-file=", "--ignore-missing-imports", "--python-version=3.11")


class Compiled(BuildHookInterface[Any]):
    """Adds the compiled modules to the wheel, beside their sources, and names the platform in its tag."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        return ["mypy~=2.4.1", "setuptools>=80"] if self._is_wanted() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable" or not self._is_wanted():
            return
        folder = Path(tempfile.mkdtemp(prefix="authz-compiled-"))
        for library in compiled(Path(self.root), folder):
            build_data["force_include"][str(library)] = str(library.relative_to(folder))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def _is_wanted(self) -> bool:
        return self.target_name == "wheel" and os.environ.get(SWITCH) == "1"


def compiled(root: Path, folder: Path) -> list[Path]:
    """Compile the hot modules of the tree at *root* into *folder*, where they lie as in the tree."""
    from mypyc.build import mypycify  # noqa: PLC0415 - only where something is compiled
    from setuptools import Distribution  # noqa: PLC0415

    before = Path.cwd()
    os.chdir(root)
    try:
        hot = sorted(str(path.relative_to(root)) for pattern in HOT for path in root.glob(pattern))
        extensions = mypycify(
            [*_OPTIONS, *hot], opt_level="3", debug_level="0", group_name="authz", target_dir=f"{folder}/c"
        )
        build = Distribution({"name": "authz", "ext_modules": extensions}).get_command_obj("build_ext")
        build.build_lib, build.build_temp = f"{folder}/lib", f"{folder}/objects"
        build.ensure_finalized()
        build.run()
    finally:
        os.chdir(before)
    return sorted((folder / "lib").rglob("*.so"))


if __name__ == "__main__":
    for made in compiled(Path(__file__).parent, Path(tempfile.mkdtemp())):
        made.rename(Path(__file__).parent / made.relative_to(made.parents[len(made.parents) - 1]))
