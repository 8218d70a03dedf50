"""The sandbox's document against the sandbox, as `make test` does it, with 150 times as many requests."""

import requests
import schemathesis
from hypothesis import HealthCheck, settings

from hubspot_sandbox import Sandbox
from tests.sandbox.conftest import clock, running_sandbox  # noqa: F401 (fixtures)
from tests.sandbox.test_openapi import CHECKS, aimed, furnished, schema, session  # noqa: F401 (fixtures)


@schema.parametrize()
@settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_nothing_that_the_document_allows_breaks_the_sandbox_or_the_document(
    case: schemathesis.Case,
    furnished: Sandbox,  # noqa: F811
    session: requests.Session,  # noqa: F811
) -> None:
    case.call_and_validate(base_url=furnished.url, session=session, checks=CHECKS)
    aimed(case).call_and_validate(base_url=furnished.url, session=session, checks=CHECKS)
