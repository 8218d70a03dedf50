"""Each subject has a row of its own: the contact that its last delivery reached, by which key, and since when."""

from __future__ import annotations

from sqlalchemy import Engine, select

from app.models import OUTBOX
from hubspot_sandbox import Sandbox
from tests.hubspot.conftest import HubSpot


def rows(engine: Engine) -> dict[str, tuple[str, str, bool]]:
    """By their subjects: record id, key, and whether there was more than one delivery."""
    with engine.connect() as connection:
        return {
            it.subject: (it.record_id, it.key_property, it.last_delivered_at > it.first_delivered_at)
            for it in connection.execute(select(OUTBOX.subjects))
        }


def test_delivery_keeps_which_contact_it_reached_and_by_which_key(hubspot: HubSpot, sandbox: Sandbox) -> None:
    marketers = sandbox.run(lambda account: account.contacts.create({"email": "ada@example.com"}, account.clock()))
    hubspot.sign_up("ada", email="ada@example.com")
    hubspot.sign_up("eve")
    hubspot.earn("eve", 5)
    hubspot.deliver()
    eves = sandbox.contact(nerava_user_id="eve")
    assert eves is not None
    first = {"ada": (str(marketers.id), "email", False), "eve": (eves["id"], "nerava_user_id", False)}
    assert rows(hubspot.engine) == first
    hubspot.earn("ada", 5)
    hubspot.deliver()
    assert rows(hubspot.engine) == first | {"ada": (str(marketers.id), "nerava_user_id", True)}
