"""A HubSpot on your laptop: its rules, limits and error bodies for contacts, and faults on request.

    python -m hubspot_sandbox --port 8025

    with Sandbox(seed=1) as sandbox:
        client = YourClient(base_url=sandbox.url, token="anything")
        sandbox.faults.add("bad_gateway", requests=3)
        assert sandbox.contact(email="ada@example.com") is not None

It shares no code with the rest of the repository: it is a second, independent reading of HubSpot's contract, or one
mistake would pass on both sides.
"""

from hubspot_sandbox.account import Account, AccountSettings
from hubspot_sandbox.faults import FaultKind
from hubspot_sandbox.server import Sandbox
from hubspot_sandbox.switches import Switches

__all__ = ["Account", "AccountSettings", "FaultKind", "Sandbox", "Switches"]
