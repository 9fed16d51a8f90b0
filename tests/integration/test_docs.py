"""The docs' transcripts are run as they stand: whoever pastes them sees what they promise."""

import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

from authz.demo.envoy_config import written
from authz.demo.stack import Stack


DOCS = Path(__file__).parents[2] / "docs"
MARK = "\x1e"


def transcript(page: str) -> list[tuple[str, str]]:
    """(command, what it prints) of every console block."""
    blocks = re.findall(r"```console\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    steps: list[tuple[str, list[str]]] = []
    for line in "".join(blocks).splitlines():
        if line.startswith("$ "):
            steps.append((line[2:], []))
        else:
            steps[-1][1].append(line)
    return [(command, "\n".join(printed)) for command, printed in steps]


def as_pattern(promised: str) -> str:
    """`…` is anything; runs of spaces are one, as tables are as wide as their cells."""
    return ".*?".join(re.escape(re.sub(" +", " ", part)) for part in promised.split("…"))


def run(script: str, folder: Path) -> str:
    ran = subprocess.run(["bash"], input=script, capture_output=True, text=True, cwd=folder, timeout=120, check=False)
    return ran.stdout


def test_managing_keys_line_by_line(tmp_path: Path) -> None:
    steps = transcript("managing-keys.md")
    with Stack(port=0) as stack:
        lines = [f"{{ {command}; }} 2>&1; printf '{MARK}'" for command, _ in steps]
        printed = run("\n".join([f". {stack.shell_file}", *lines]), tmp_path).split(MARK)

    assert len(printed) == len(steps) + 1
    for (command, promised), seen in zip(steps, printed, strict=False):
        told = "\n".join(re.sub(" +", " ", line.strip()) for line in seen.strip().splitlines())
        assert re.fullmatch(as_pattern(promised), told, re.DOTALL), f"$ {command}\n{seen}"


class Behind(Stack):
    """With the snippet of the page on Envoy in its bootstrap."""

    def _prepare(self) -> None:
        super()._prepare()
        self._config_file.write_text(self._config_file.read_text() + "trusted_proxies: [127.0.0.1/32]\n")

    def envoy_config(self) -> str:
        snippet: Any = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", (DOCS / "envoy.md").read_text(), re.DOTALL)[0])
        whole: Any = yaml.safe_load(super().envoy_config())
        endpoint = snippet["clusters"][0]["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
        endpoint["address"]["socket_address"]["port_value"] = int(self.address("http").rpartition(":")[2])
        whole["static_resources"]["clusters"] += snippet["clusters"]
        manager = whole["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
        manager["route_config"]["virtual_hosts"][0]["routes"][:0] = snippet["routes"]
        return written(whole)


def test_the_page_of_envoy_has_a_route_to_the_admin_api_that_works(tmp_path: Path) -> None:
    """Through Envoy as the page says; who calls is told by the key alone, and from where by Envoy."""
    with Behind(port=0) as stack:
        ask = f"curl -s -w '%{{http_code}}' {stack.url}/authz/v1/keys"
        assert run(f"{ask} -H 'Authorization: Bearer {stack.keys['admin']}'", tmp_path).endswith("200")
        assert run(f"{ask} -H 'Authorization: Bearer {stack.keys['read-write']}'", tmp_path).endswith("403")
        assert run(f"{ask} -H 'x-authz-scopes: admin' -H 'x-authz-subject: root'", tmp_path).endswith("401")
