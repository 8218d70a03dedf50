"""A driver deletes the account: every row of it goes, with the outbox's, in one transaction."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import Engine, func, select, text

from app.main import create_app
from app.models import OUTBOX, Base
from app.otp import OneTimeCode
from sqlalchemy_outbox.enqueueing.forgetting import ERASURE
from tests.app.conftest import Hub, at_once, settings_for


@pytest.fixture
def hub(database_url: str) -> Iterator[Hub]:
    """One that has the key."""
    codes: list[OneTimeCode] = []
    settings = settings_for(database_url).model_copy(update={"hubspot_erasure_key": SecretStr("e" * 32)})
    with TestClient(create_app(settings, codes.append), raise_server_exceptions=False) as http:
        yield Hub(http, codes)


def rows(engine: Engine) -> dict[str, int]:
    """How many there are, of Nerava's own tables."""
    own = [it for it in Base.metadata.sorted_tables if not it.name.startswith("outbox_events")]
    with engine.connect() as connection:
        return {it.name: connection.execute(select(func.count()).select_from(it)).scalar_one() for it in own}


def types(engine: Engine) -> list[str]:
    c = OUTBOX.events.c
    with engine.connect() as connection:
        return list(connection.execute(select(c.event_type).where(c.failed_at.is_(None)).order_by(c.id)).scalars())


def test_account_is_deleted_whole_and_the_driver_forgotten(hub: Hub, engine: Engine) -> None:
    other = hub.sign_up(email="eve@example.com")
    hub.install_pass(other)
    before = rows(engine)
    driver = hub.sign_up(email="ada@example.com")
    hub.install_pass(driver)
    hub.grant(driver)
    hub.redeem(driver, 5)
    hub.start(email="ada@example.com")
    assert hub.http.delete("/v1/driver", headers=driver.headers).status_code == 202
    assert rows(engine) == before
    assert types(engine)[-1] == ERASURE
    assert hub.http.delete("/v1/driver", headers=driver.headers).status_code == 401
    assert hub.grant(driver).status_code == 404
    again = hub.sign_up(email="ada@example.com")
    assert again.id != driver.id
    assert types(engine)[-1] == "driver_signed_up"


def test_account_stays_where_the_erasure_cannot_be_written(hub: Hub, engine: Engine) -> None:
    driver = hub.sign_up(email="ada@example.com")
    before = rows(engine)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE outbox_events RENAME TO elsewhere"))
    answer = hub.http.delete("/v1/driver", headers=driver.headers)
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:nerava:problem:database-unavailable")
    assert rows(engine) == before


def test_account_stays_where_nobody_can_be_forgotten(hub: Hub, engine: Engine) -> None:
    driver = hub.sign_up(email="ada@example.com")
    OUTBOX.names.use_key("")
    answer = hub.http.delete("/v1/driver", headers=driver.headers)
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:nerava:problem:cannot-forget")
    assert hub.wallet(driver)["balance"] == 0


def test_grants_that_race_a_deletion_leave_no_row_and_no_event_behind(hub: Hub, engine: Engine) -> None:
    driver = hub.sign_up(email="ada@example.com")

    def act(number: int) -> int:
        if number == 0:
            return hub.http.delete("/v1/driver", headers=driver.headers).status_code
        return int(hub.grant(driver).status_code)

    statuses = at_once(6, act)
    assert statuses[0] == 202
    assert set(statuses[1:]) <= {201, 404}
    assert set(rows(engine).values()) == {0}
    hub.sign_up(email="eve@example.com")
    erasure = types(engine).index(ERASURE)
    assert types(engine)[erasure:] == [ERASURE, "driver_signed_up"]
