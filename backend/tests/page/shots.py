"""Every view as a picture: `python -m tests.page.shots FOLDER`, or `make shots`.

Desktop, phone and dark; an empty outbox, a healthy one with a week behind it, and each trouble as it looks on the
overview. The troubles are staged: rows as workers leave them, with HubSpot's words.
"""

from __future__ import annotations

import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from uuid import UUID

from playwright.sync_api import Browser
from sqlalchemy import Connection, Engine, insert, update

from app.database import create_database_engine
from app.events import CATALOG
from app.models import OUTBOX
from hubspot_sandbox import Sandbox
from sqlalchemy_outbox import operations
from sqlalchemy_outbox.clock import DatabaseNow, SecondsUntil
from sqlalchemy_outbox.gate import row as gate_row
from sqlalchemy_outbox.housekeeping import figures, workers
from sqlalchemy_outbox.housekeeping.figures import ALL_TYPES, Counts
from sqlalchemy_outbox.housekeeping.workers import Sign
from sqlalchemy_outbox.model import ATTEMPTS_MAX, GateState, State
from sqlalchemy_outbox.operations import EventFilter
from sqlalchemy_outbox.settling import waits
from tests.conftest import migrate
from tests.page.browser import PHONE, Operator, chromium
from tests.page.conftest import SIGNED_UP, fail, live_settings, provision, serving, track

DESKTOP = {"width": 1280, "height": 900}
LOOKS = {"desktop": (DESKTOP, "light"), "phone": (PHONE, "light"), "dark": (DESKTOP, "dark")}
REFUSED = "HubSpot refused it: nerava_stage: earning was not one of the allowed options (INVALID_OPTION)"
AGO = timedelta(minutes=47)

Stage = Callable[[Engine], None]


def live(engine: Engine) -> None:
    """Three workers, of which one is of the next version: a rolling deploy."""
    with engine.begin() as connection:
        for number, version in enumerate(("2.3.0", "2.3.0", "2.4.0")):
            sign = Sign(version, 41 + number, 21.5 + number, 0.6, 19.0)
            workers.note_alive(connection, OUTBOX, f"w{number}", CATALOG.types, sign)
            seconds = -9 * 3600.0 if number < 2 else -1500.0
            set_worker(connection, f"w{number}", machine=f"worker-{number}", process=4100 + number, seconds=seconds)


def set_worker(connection: Connection, id_: str, *, machine: str, process: int, seconds: float) -> None:
    begun = {"machine": machine, "process": process, "started_at": DatabaseNow(seconds)}
    connection.execute(update(OUTBOX.workers).where(OUTBOX.workers.c.id == id_).values(begun))


def a_week(engine: Engine) -> None:
    """Figures of a week with days and nights, an hour without workers, and a night's outage."""
    random = Random(7)
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    with engine.begin() as connection:
        for hours in range(7 * 24, -1, -1):
            counted: figures.By = {}
            for minutes in range(60):
                at = now - timedelta(hours=hours, minutes=minutes)
                if 5.5 < (now - at) / timedelta(hours=1) < 6.4:
                    continue
                is_out = 2 < (now - at) / timedelta(hours=1) < 2.6
                load = 6 + 5 * math.sin((at.hour - 7) / 24 * 2 * math.pi) + random.random() * 4
                everything = counted[at, ALL_TYPES] = Counts(
                    answered=0 if is_out else int(load / 3) + 1, unanswered=3 if is_out else int(random.random() < 0.02)
                )
                minutes_out = ((now - at) / timedelta(hours=-1) + 2.6) * 60
                everything.lag_seconds = max(1.0, minutes_out * 60) if is_out else random.random() * 3
                everything.waiting = int(minutes_out * load) if is_out else int(load / 4)
                for share, event_type in enumerate(("nova_earned", "driver_signed_up", "nova_redeemed"), 1):
                    counts = counted[at, event_type] = Counts(enqueued=int(load / share))
                    counts.delivered = 0 if is_out else counts.enqueued
                    counts.failed = int(random.random() < 0.01)
            figures.add(connection, OUTBOX, counted)
        closures = OUTBOX.records.closures
        for began, ended, state, reason in (
            (-2.6, -2.0, "throttled", "outage: HubSpot answered 502"),
            (-31, -29.5, "held", "HubSpot answered 401. HUBSPOT_PRIVATE_APP_TOKEN is not accepted"),
        ):
            lasted = {"began_at": DatabaseNow(began * 3600), "ended_at": DatabaseNow(ended * 3600)}
            connection.execute(insert(closures).values(**lasted, state=state, reason=reason))


def healthy(engine: Engine) -> None:
    live(engine)
    a_week(engine)
    payloads = ({"user_id": f"driver-{n}", "email": f"driver{n}@example.com", **SIGNED_UP} for n in range(40))
    track(engine, "driver_signed_up", *payloads)
    c = OUTBOX.events.c
    with engine.begin() as connection:
        connection.execute(update(OUTBOX.events).where(c.id <= 36).values(processed_at=DatabaseNow(-20.0)))
    for _ in range(3):
        track(engine, "driver_signed_up", {"user_id": "driver-39", "email": "driver39@example.com", **SIGNED_UP})
    fail(engine, "driver-41", email="ada@example.com")
    operations.hold(engine, OUTBOX, "Contacts are being merged in HubSpot", by="page:Grace")
    operations.release(engine, OUTBOX, by="page:Grace")
    operations.reveal(engine, OUTBOX, "driver-7", by="page:Ada")
    with engine.begin() as connection:
        earlier = DatabaseNow(-5 * 3600.0)
        connection.execute(update(OUTBOX.records.audit).values(at=earlier))
        older = update(OUTBOX.records.closures).where(OUTBOX.records.closures.c.held_by.is_not(None))
        connection.execute(older.values(began_at=earlier, ended_at=DatabaseNow(-4.8 * 3600)))


def waiting(engine: Engine, number: int = 12) -> None:
    live(engine)
    a_week(engine)
    payloads = ({"user_id": f"driver-{n}", "email": f"driver{n}@example.com", **SIGNED_UP} for n in range(number))
    track(engine, "driver_signed_up", *payloads)
    with engine.begin() as connection:
        at = DatabaseNow(-AGO.total_seconds())
        connection.execute(update(OUTBOX.events).values(created_at=at, available_at=at))


@dataclass(frozen=True, slots=True)
class Shut:
    """A gate as a worker leaves it."""

    state: GateState
    wait: timedelta
    reason: str
    is_answer: bool = True

    def __call__(self, engine: Engine) -> None:
        waiting(engine)
        with engine.begin() as connection:
            self.leave(connection)
            c = OUTBOX.records.closures.c
            since = DatabaseNow(SecondsUntil(c.began_at) - AGO.total_seconds())
            newest = c.ended_at.is_(None) | (c.ended_at > DatabaseNow())
            connection.execute(update(OUTBOX.records.closures).where(newest).values(began_at=since))

    def leave(self, connection: Connection) -> None:
        gate_row.make_row(connection, OUTBOX)
        gate_row.shut(connection, OUTBOX, self.state, self.wait, self.reason, is_answer=self.is_answer)


def held_by_a_person(engine: Engine) -> None:
    waiting(engine)
    operations.hold(engine, OUTBOX, "Contacts are being merged in HubSpot until noon", by="page:Grace")


def property_is_missing(engine: Engine) -> None:
    waiting(engine)
    reason = "the account lacks the properties nerava_lifetime_earned: run `provision` to create them."
    with engine.begin() as connection:
        waits.note(connection, OUTBOX, {"nerava_lifetime_earned": reason})
        apart = {"waits_for": "nerava_lifetime_earned", "available_at": DatabaseNow(3.15e9), "last_error": reason}
        connection.execute(update(OUTBOX.events).where(OUTBOX.events.c.id > 4).values(apart))
        delivered = update(OUTBOX.events).where(OUTBOX.events.c.id <= 4)
        connection.execute(delivered.values(processed_at=DatabaseNow(-300.0)))


def many_failed(engine: Engine) -> None:
    waiting(engine, 40)
    reasons = [REFUSED, REFUSED, REFUSED, "HubSpot refused it: INVALID_EMAIL: Email address a# is invalid"]
    with engine.begin() as connection:
        for number, reason in enumerate(reasons):
            failed = {"attempt_count": ATTEMPTS_MAX, "failed_at": DatabaseNow(-600.0), "last_error": reason}
            some = OUTBOX.events.c.id % 4 == number
            connection.execute(update(OUTBOX.events).where(some).values(**failed, failure_reason=reason))


def worker_died(engine: Engine) -> None:
    live(engine)
    a_week(engine)
    with engine.begin() as connection:
        connection.execute(
            update(OUTBOX.workers).where(OUTBOX.workers.c.id == "w1").values(seen_at=DatabaseNow(-400.0))
        )


def no_worker_lives(engine: Engine) -> None:
    waiting(engine)
    with engine.begin() as connection:
        connection.execute(update(OUTBOX.workers).values(seen_at=DatabaseNow(-AGO.total_seconds())))


ONE = (
    "outage: one contact's requests get no answer, those of driver-7 (record 801), and nothing else is being sent, so "
    "it is not known whether HubSpot answers others: no answer in time"
)
SHUT: dict[str, Shut] = {
    "down": Shut(GateState.THROTTLED, timedelta(seconds=43), "outage: HubSpot answered 502", is_answer=False),
    "no-answer": Shut(
        GateState.THROTTLED,
        timedelta(seconds=16),
        "outage: POST /crm/objects/2026-09/contacts/batch/upsert: no connection in time",
        is_answer=False,
    ),
    "401": Shut(
        GateState.HELD,
        timedelta(seconds=51),
        "HubSpot answered 401: INVALID_AUTHENTICATION: Authentication credentials not found. "
        "HUBSPOT_PRIVATE_APP_TOKEN is not accepted: set a valid token and restart the worker.",
    ),
    "scopes": Shut(
        GateState.HELD,
        timedelta(seconds=20),
        "HubSpot answered 403: MISSING_SCOPES. Grant the token crm.objects.contacts.write.",
    ),
    "portal": Shut(
        GateState.HELD,
        timedelta(seconds=20),
        "the token belongs to portal 87654321, HUBSPOT_PORTAL_ID says 12345678: set the one that is meant and restart "
        "the worker.",
    ),
    "one-contact": Shut(GateState.THROTTLED, timedelta(seconds=30), ONE, is_answer=False),
    "daily-reserve": Shut(
        GateState.THROTTLED,
        timedelta(hours=9, minutes=12),
        "31230 of the account's 625000 requests are left today; HUBSPOT_DAILY_RESERVE (0.05) keeps them for others "
        "until the account's midnight",
    ),
    "daily-limit": Shut(
        GateState.THROTTLED,
        timedelta(hours=9, minutes=12),
        "HubSpot answered 429: RATE_LIMITS: You have reached your daily limit.",
    ),
    "throttled": Shut(
        GateState.THROTTLED,
        timedelta(seconds=9),
        "HubSpot answered 429: RATE_LIMITS: You have reached your ten_secondly_rolling limit.",
    ),
}
TROUBLES: dict[str, Stage] = {
    **SHUT,
    "held-by-a-person": held_by_a_person,
    "property-missing": property_is_missing,
    "many-failed": many_failed,
    "worker-died": worker_died,
    "no-worker-lives": no_worker_lives,
}


def views(engine: Engine) -> dict[str, str]:
    """Of a healthy outbox, each by its name."""
    failed = operations.find_events(engine, OUTBOX, EventFilter(State.FAILED), limit=1)
    pending = operations.find_events(engine, OUTBOX, EventFilter(State.PENDING), limit=1)
    event_id: UUID | None = failed[0].event_id if failed else None
    named = {
        "overview": "/",
        "overview-1h": "/?range=1h",
        "overview-7d": "/?range=7d",
        "overview-1y": "/?range=1y",
        "events": "/events",
        "workers": "/workers",
        "audit": "/audit",
        "doctor": "/doctor/findings",
        "provision": "/provision/plan",
        "contact": "/contact/comparison?subject=driver-7",
        "sign-in": "/sign-in",
    }
    if event_id is None:
        return named
    return named | {
        "event-pending": f"/events/{pending[0].event_id}",
        "contact-queue": f"/contact?subject={pending[0].subject}",
        "events-span": "/events?since=2026-11-01T00:00Z&state=pending",
        "event": f"/events/{event_id}",
        "retry": f"/retry?event={event_id}",
        "discard": f"/discard?event={event_id}",
        "job": "/jobs/unknown?verb=retry&total=7&state=failed",
    }


@contextmanager
def scene(folder: Path, template: Path, sandbox: Sandbox, stage: Stage | None) -> Iterator[tuple[str, Engine]]:
    """The page over a database of its own; its workers run elsewhere, so that what is staged stays."""
    database = folder / "scene.db"
    shutil.copyfile(template, database)
    url = f"sqlite:///{database}"
    settings = live_settings(url, sandbox, hubspot_worker_in_app=False, hubspot_requests_per_second=8)
    engine = create_database_engine(url)
    if stage is not None:
        stage(engine)
    with serving(settings) as address:
        yield address, engine
    engine.dispose()
    for file in folder.glob("scene.db*"):
        file.unlink()


def take(browser: Browser, address: str, into: Path, name: str, places: dict[str, str], looks: list[str]) -> None:
    for look in looks:
        viewport, scheme = LOOKS[look]
        context = browser.new_context(viewport=viewport, color_scheme=scheme, reduced_motion="reduce")
        operator = Operator(context.new_page(), address)
        operator.sign_in()
        for view, path in places.items():
            operator.go(path)
            if path.startswith("/?") or path == "/":
                operator.page.wait_for_function("document.querySelector('#by-type:not([hidden]), .quiet') !== null")
                operator.page.wait_for_timeout(700)
            operator.page.screenshot(path=into / f"{name}-{view}-{look}.png", full_page=True)
        for complaint in operator.complaints:
            sys.stderr.write(f"{name} {look}: {complaint}\n")
        context.close()


def main(into: Path, only: list[str]) -> None:
    into.mkdir(parents=True, exist_ok=True)
    overview = {"overview": "/"}
    with tempfile.TemporaryDirectory() as name, Sandbox(seed=1) as sandbox, chromium() as browser:
        folder = Path(name)
        template = folder / "template.db"
        migrate(f"sqlite:///{template}")
        engine = create_database_engine(f"sqlite:///{template}")
        provision(live_settings(f"sqlite:///{template}", sandbox), engine)
        engine.dispose()
        scenes: dict[str, tuple[Stage | None, bool]] = {"empty": (None, True), "healthy": (healthy, True)}
        scenes |= {trouble: (stage, False) for trouble, stage in TROUBLES.items()}
        for title, (stage, is_whole) in scenes.items():
            if only and title not in only:
                continue
            with scene(folder, template, sandbox, stage) as (address, staged):
                take(browser, address, into, title, views(staged) if is_whole else overview, list(LOOKS))
            sys.stdout.write(f"{title}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
