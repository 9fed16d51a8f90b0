"""Portals of `authz serve`: they come and go with a reload, and the description with them."""

import json
import time
from pathlib import Path

from authz.demo.tour import ask
from tests.integration.test_serve import serving


def test_a_reload_replaces_the_portals(tmp_path: Path, valkey_url: str) -> None:
    config = tmp_path / "authz.yaml"
    config.write_text("portals: [vinfer]\n")
    with serving(tmp_path, valkey_url, AUTHZ_CONFIG=str(config)) as sidecar:
        sidecar.ready()

        def statuses() -> tuple[int, ...]:
            http = sidecar.ports["http"]
            return tuple(ask(http, "GET", path).status for path in ("/v1/api-keys", "/portal/keys", "/authz/v1/keys"))

        def described() -> set[str]:
            body = ask(sidecar.ports["http"], "GET", "/authz/v1/openapi.json").body
            return {*json.loads(body)["paths"]} & {"/v1/api-keys", "/portal/keys", "/authz/v1/keys"}

        assert (statuses(), described()) == ((401, 404, 401), {"/v1/api-keys", "/authz/v1/keys"})
        config.write_text("portals: [inferexai]\nkeys: {retain_token: true}\n")
        deadline_s = time.monotonic() + 10
        while statuses() != (404, 401, 401):
            assert time.monotonic() < deadline_s, sidecar.text()
            time.sleep(0.02)
        assert described() == {"/portal/keys", "/authz/v1/keys"}
