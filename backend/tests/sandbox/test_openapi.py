"""The published document is true: whatever it allows is answered, and answered as it says."""

import httpx2
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from hubspot_sandbox import Sandbox
from hubspot_sandbox.account import Account
from hubspot_sandbox.contacts import FIRST_CONTACT_ID
from hubspot_sandbox.events import EventDefinitionCreate
from hubspot_sandbox.openapi import openapi_document
from hubspot_sandbox.wire import GroupCreate, PropertyCreate
from tests.sandbox.conftest import HubSpotClient

KNOWN = {
    "id": str(FIRST_CONTACT_ID),
    "objectId": str(FIRST_CONTACT_ID),
    "name": "known",
    "property": "known",
    "eventName": "pe12345678_known",
    "idProperty": None,
    "email": "ada@example.com",
}
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
# One version stands for all: the same handlers serve the others.
schema = schemathesis.openapi.from_dict(openapi_document()).exclude(path_regex="v3|2026-03")


@pytest.fixture(scope="module")
def session() -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    session.headers["Authorization"] = "Bearer t"
    return session


@pytest.fixture
def furnished(running_sandbox: Sandbox) -> Sandbox:
    """An account with something in it, and limits that these tests do not reach."""
    running_sandbox.reset()
    running_sandbox.change(requests_per_ten_seconds=10**6, requests_per_day=10**9, search_lag_seconds=0)
    running_sandbox.run(_furnish)
    return running_sandbox


def _furnish(account: Account) -> None:
    account.search_limit.maximum = 10**6
    account.contacts.create({"email": KNOWN["email"]}, account.clock())
    account.schema.create_group(GroupCreate(name="known", label="Known"))
    account.schema.create(
        PropertyCreate(name="known", label="Known", type="string", field_type="text", group_name="known"), 0.0
    )
    wanted = {"label": "Known", "includeDefaultProperties": False, "propertyDefinitions": []}
    account.events.define(EventDefinitionCreate.model_validate(wanted), account.clock())


def aimed(case: schemathesis.Case) -> schemathesis.Case:
    """The same request about what exists: random names and ids find nothing."""
    for name in case.path_parameters:
        case.path_parameters[name] = KNOWN.get(name, case.path_parameters[name])
    if isinstance(case.body, dict):
        inputs = case.body.get("inputs")
        for record in (case.body, *(inputs if isinstance(inputs, list) else ())):
            _aim(record)
    return case


def _aim(record: object) -> None:
    if isinstance(record, dict):
        record |= {
            name: KNOWN[name] for name in ("id", "name", "idProperty", "eventName", "objectId") if name in record
        }
        if isinstance(record.get("properties"), dict) and "eventName" not in record:
            record["properties"] = {"city": str(record["properties"])}


@schema.parametrize()
@settings(max_examples=1, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
def test_nothing_that_the_document_allows_breaks_the_sandbox_or_the_document(
    case: schemathesis.Case, furnished: Sandbox, session: requests.Session
) -> None:
    case.call_and_validate(base_url=furnished.url, session=session, checks=CHECKS)
    aimed(case).call_and_validate(base_url=furnished.url, session=session, checks=CHECKS)


def test_the_document_is_published_without_a_token(hubspot: HubSpotClient, sandbox: Sandbox) -> None:
    assert httpx2.get(f"{sandbox.url}/sandbox/openapi.json", trust_env=False).json() == openapi_document()
