"""The sandbox as an application's own tests have it."""

from __future__ import annotations

from hubspot_sandbox.fixtures import hubspot_sandbox, hubspot_sandbox_server

__all__ = ["hubspot_sandbox", "hubspot_sandbox_server"]
