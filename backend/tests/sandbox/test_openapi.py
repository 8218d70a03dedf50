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
from hubspot_sandbox.openapi import openapi_document
from tests.sandbox.conftest import HubSpotClient

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
# One version stands for all: the same handlers serve the others.
schema = schemathesis.openapi.from_dict(openapi_document()).exclude(path_regex="v3|2026-03")


@pytest.fixture(scope="module")
def session() -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    session.headers["Authorization"] = "Bearer t"
    return session


@pytest.fixture(scope="module")
def furnished(running_sandbox: Sandbox) -> Sandbox:
    """An account with something in it, and limits that these tests do not reach."""
    running_sandbox.reset()
    running_sandbox.change(requests_per_ten_seconds=10**6, requests_per_day=10**9)
    running_sandbox.run(lambda account: setattr(account.search_limit, "maximum", 10**6))
    return running_sandbox


@schema.parametrize()
@settings(max_examples=12, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
def test_nothing_that_the_document_allows_breaks_the_sandbox_or_the_document(
    case: schemathesis.Case, furnished: Sandbox, session: requests.Session
) -> None:
    case.call_and_validate(base_url=furnished.url, session=session, checks=CHECKS)


def test_the_document_is_published_without_a_token(hubspot: HubSpotClient, sandbox: Sandbox) -> None:
    assert httpx2.get(f"{sandbox.url}/sandbox/openapi.json", trust_env=False).json() == openapi_document()
