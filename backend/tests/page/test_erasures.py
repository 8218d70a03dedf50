"""The certificate of who was forgotten, on the page: looked up by the subject, shown by the name."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlencode

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from app.models import OUTBOX
from app.services.hubspot import forget
from tests.page.conftest import Client, track

ADA = "ada-4711"


def test_certificate_is_found_by_the_subject_and_never_shows_it(
    open_page: Callable[..., Client], engine: Engine
) -> None:
    operator = open_page(hubspot_erasure_key="e" * 32)
    operator.sign_in()
    assert "Nobody was forgotten yet" in operator.get("/erasures").text
    with Session(engine) as db, db.begin():
        forget(db, ADA, reason="asked by letter")
    track(engine, "nova_earned", {"user_id": ADA})
    name = str(OUTBOX.names.of(ADA))
    for path in ("/erasures", f"/erasures?{urlencode({'name': name})}"):
        shown = operator.get(path).text
        assert name in shown
        assert "waits for a worker" in shown
        assert "asked by letter" in shown
        assert ADA not in shown
    assert name in operator.get(f"/erasures?{urlencode({'subject': ADA})}").text
    assert "never forgotten" in operator.get("/erasures?subject=eve").text
    exported = operator.get(f"/erasures.json?{urlencode({'subject': ADA})}")
    assert exported.headers["content-disposition"].startswith("attachment")
    [certificate] = exported.json()["erasures"]
    assert (certificate["name"], certificate["is_done"], certificate["here"]) == (name, False, {"refused": 1})


def test_page_says_that_the_key_is_missing(operator: Client) -> None:
    assert "HUBSPOT_ERASURE_KEY is empty" in operator.get("/erasures").text
    assert operator.get("/erasures?subject=eve").status_code == 409
