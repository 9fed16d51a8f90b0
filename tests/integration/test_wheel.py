"""The wheel, as a container installs it: nothing that is needed at run time may be missing from it."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from authz.demo.profiles import PROFILES
from tests.support.parts import SECRET


ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*command, str(ROOT)], check=True, timeout=120)
    return next(folder.glob("authz-*.whl"))


def test_it_holds_scripts_stubs_and_the_demos_files(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())

    assert {
        f"authz/adapters/redis/scripts/{name}.lua" for name in ("admit", "change", "issue", "revoke", "take")
    } <= names
    assert {"authz/pb/authz/store/v1/record_pb2.py", "authz/pb/descriptors.binpb", "authz/py.typed"} <= names
    for name in PROFILES:
        envoy = "envoy/envoy.yaml" if name == "default" else f"envoy/profiles/{name}.yaml"
        assert {f"authz/demo/files/{envoy}", f"authz/demo/files/profiles/{name}.yaml"} <= names
    assert not [name for name in names if name.startswith(("tests", "benchmarks"))]


def test_it_works_away_from_the_tree(wheel: Path, tmp_path: Path, valkey_url: str) -> None:
    """Unpacked into a folder of its own, beside the libraries alone."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AUTHZ_")}
    environ |= {"AUTHZ_JWT_SECRET": SECRET, "AUTHZ_STORE__URL": valkey_url, "PYTHONPATH": str(tmp_path / "site")}

    def run(*arguments: str) -> str:
        ended = subprocess.run(
            [sys.executable, *arguments],
            env=environ,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return ended.stdout

    assert run("-c", "import authz; print(authz.__file__)").startswith(str(tmp_path))
    assert run("-m", "authz", "keys", "create", "--name", "first").startswith("sk-live-")
    assert "first" in run("-m", "authz", "keys", "list")
    filled = "from authz.demo.envoy_config import filled; print(filled(edge=1, authz=2, log=3, upstream=4, admin=5{}))"
    for which in ("", ", profile='vinfer'"):
        assert '"port_value": 5' in run("-c", filled.format(which))
