"""docs/alerts.yml and metrics.md: rules ask for what is exported and name entries; all that is exported is listed."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.conftest import BACKEND
from tests.hubspot.conftest import HubSpot
from tests.hubspot.test_telemetry import scrape

DOCS = BACKEND.parent / "docs"
METRICS = (DOCS / "metrics.md").read_text()
RULES: list[dict[str, Any]] = yaml.safe_load((DOCS / "alerts.yml").read_text())["groups"][0]["rules"]
SELECTOR = re.compile(r"\b((?:outbox|hubspot)_\w+)(?:\{([^}]*)\})?")
LABEL = re.compile(r'(\w+)="([^"]*)"')

each_rule = pytest.mark.parametrize("rule", RULES, ids=lambda it: it["alert"])


def test_every_series_that_an_alert_asks_for_is_exported(hubspot: HubSpot) -> None:
    hubspot.sign_up("driver-1")
    hubspot.deliver()
    exported = [(name, dict(labels)) for name, labels in scrape(hubspot.engine)]
    asked_for = [(it["alert"], *found) for it in RULES for found in SELECTOR.findall(it["expr"])]
    assert len(asked_for) >= len(RULES)
    for alert, name, labels in asked_for:
        wanted = dict(LABEL.findall(labels))
        found = [it for it in exported if it[0] == name and wanted.items() <= it[1].items()]
        assert found, f"{alert} asks for {name}{wanted}, which nothing exports"


def test_every_series_that_is_exported_is_documented_and_no_other(hubspot: HubSpot) -> None:
    hubspot.sign_up("driver-1")
    hubspot.deliver()
    exported = {re.sub("_(bucket|sum|count)$", "", name) for name, _ in scrape(hubspot.engine)}
    documented = re.findall(r"^\| `(\w+)` \| (?:counter|gauge|histogram) \|", METRICS, re.MULTILINE)
    assert set(documented) == {name for name in exported if re.match("(outbox|hubspot)_(?!.*_created$)", name)}


@each_rule
def test_alert_names_its_entry_and_says_whom_it_calls(rule: dict[str, Any]) -> None:
    document, _, anchor = rule["annotations"]["entry"].partition("#")
    text = (DOCS.parent / document).read_text()
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    assert anchor in {re.sub(r"[^\w -]", "", it).lower().replace(" ", "-") for it in headings}
    assert rule["annotations"]["summary"]
    assert rule["labels"]["severity"] in ("page", "ticket")
