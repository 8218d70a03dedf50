"""What a stranger may learn, and what anybody may keep: nothing that is not theirs."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from sqlalchemy import insert

from app.models import OUTBOX
from app.settings import Settings
from sqlalchemy_outbox.clock import DatabaseNow
from tests.app.conftest import on_sqlite_only

PASSWORDS = [
    "postgresql://nerava:s3/cr3t@db:5432/nerava",
    "postgresql://nerava:p@ss3cr3t@db/nerava",
    "postgresql://nerava:p@s:s3cr3t@db/nerava",
    "postgresql://nerava:p@s/s3cr3t@db/nerava",
    "postgresql://nerava:p@s?s3cr3t@db/nerava",
    "postgresql://nerava:s3cr3t",
    "postgresql://nerava:s3cr3t/nerava",
    "postgresql:/nerava:s3cr3t@db/nerava",
    "nerava:s3cr3t@db/nerava",
    "s3cr3t://nerava@db/nerava",
    "postgresql://nerava@db:s3cr3t/nerava",
    "postgresql://nerava:s3cr3t@[::1/nerava",
]


@pytest.mark.parametrize("url", PASSWORDS)
def test_malformed_database_url_shows_no_part_of_its_password(url, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", url)
    try:
        shown = repr(Settings(_env_file=None))
    except ValidationError as error:
        shown = str(error)
        assert "DATABASE_URL" in shown
    assert "cr3t" not in shown


@pytest.mark.parametrize("show", [repr, str, "{}".format, "{!r}".format], ids=["repr", "str", "format", "format !r"])
def test_settings_show_no_password(show):
    settings = Settings(_env_file=None, database_url="postgresql://nerava:s3cr3t@db/nerava")
    assert "s3cr3t" not in show(settings)
    assert "s3cr3t" in settings.database_url


@pytest.mark.parametrize("url", ["postgresql://nerava:p@s3cr3t@db/nerava", "postgresql://n:p@s/s3cr3t@db/nerava"])
def test_password_with_an_at_sign_is_to_be_written_with_percent(url):
    with pytest.raises(ValidationError, match="%40"):
        Settings(_env_file=None, database_url=url)


@on_sqlite_only
def test_readiness_quotes_neither_operators_nor_hubspot(hub, engine):
    words = "Ada said: the token of account 4711 is revoked"
    with engine.begin() as connection:
        connection.execute(OUTBOX.gate.delete())
        held = {"id": 1, "state": "held", "reason": words, "held_by": "page:Ada", "next_slot_at": DatabaseNow()}
        connection.execute(insert(OUTBOX.gate).values(held))
    for path in ("/healthz", "/readyz", "/readyz/worker"):
        text = hub.http.get(path).text
        assert "Ada" not in text
        assert "4711" not in text
    assert hub.http.get("/readyz").json()["gate"] == {"state": "held", "until": None}


@on_sqlite_only
def test_nobody_on_the_way_keeps_what_the_application_answers(hub):
    challenge = hub.start(email="ada@example.com")
    signed_in = hub.verify(challenge)
    driver = {"Authorization": f"Bearer {signed_in.json()['access_token']}"}
    answers = [
        signed_in,
        hub.verify(challenge),
        hub.http.post("/v1/auth/otp/start", json={"email": "grace@example.com"}),
        hub.http.post("/v1/auth/otp/start", json={}),
        hub.http.get("/v1/wallet", headers=driver),
        hub.http.get("/v1/wallet"),
        hub.http.post("/v1/wallet/passes", json={"pass_type": "apple"}, headers=driver),
        hub.http.post("/v1/nova/grants", json={}),
        hub.http.get("/readyz"),
        hub.http.get("/nowhere"),
    ]
    assert [it.headers.get("cache-control") for it in answers] == ["no-store"] * len(answers)
