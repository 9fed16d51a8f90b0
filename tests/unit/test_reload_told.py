"""What a reload tells: which changes need a restart."""

import logging

import pytest

from authz.settings.model import Settings
from authz.sidecar import Sidecar


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        pytest.param({}, {"request_rules": {"a": {"content_types": ["a/b"]}}}, [], id="nothing of a body is looked at"),
        pytest.param({}, {"request_rules": {"a": {"max_body": 5}}}, ["request_rules.max_body"], id="larger bodies"),
        pytest.param({"request_rules": {"a": {"max_body": 5}}}, {}, [], id="smaller ones"),
        pytest.param({}, {"store": {"on_error": "allow"}}, [], id="on_error"),
        pytest.param({}, {"store": {"timeout": "60ms"}}, ["store"], id="the store"),
    ],
)
def test_what_needs_a_restart(
    before: dict[str, object], after: dict[str, object], told: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        Sidecar._tell_reload(Settings.model_validate(before), Settings.model_validate(after))

    assert [record.__dict__["fields"]["needs_restart"] for record in caplog.records] == [told]
