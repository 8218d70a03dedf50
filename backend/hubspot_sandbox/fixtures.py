"""For pytest, in your conftest.py: `from hubspot_sandbox.fixtures import hubspot_sandbox, hubspot_sandbox_server`."""

from collections.abc import Iterator

import pytest

from hubspot_sandbox.server import Sandbox


@pytest.fixture(scope="session")
def hubspot_sandbox_server() -> Iterator[Sandbox]:
    """One server for all tests of a process: it takes some 50 ms to start."""
    with Sandbox(seed=1) as sandbox:
        yield sandbox


@pytest.fixture
def hubspot_sandbox(hubspot_sandbox_server: Sandbox) -> Sandbox:
    """A HubSpot account as it was opened: no contacts, faults, requests or properties of your own. See `url`."""
    hubspot_sandbox_server.reset()
    return hubspot_sandbox_server
