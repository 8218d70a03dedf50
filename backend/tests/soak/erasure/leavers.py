"""Drivers who come, leave by Nerava's route, and are spoken of afterwards by code that has not heard of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any
from uuid import uuid4

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.models import OUTBOX
from app.services.hubspot import track_event
from sqlalchemy_outbox import operations
from sqlalchemy_outbox.operating.selection import EventFilter
from tests.app.conftest import Hub, SignedInDriver

_PRODUCERS = 2
_PAUSE_SECONDS = 0.1
_TRIES_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Leaver:
    """All that names a driver: none of it stands in any other text by chance."""

    driver: SignedInDriver
    address: str
    phone: str

    @property
    def words(self) -> list[bytes]:
        return [text.encode() for text in (self.driver.id, self.address, self.phone)]


@dataclass(slots=True)
class Leavers:
    """`speak_late` writes an event of a driver in a process that may lack the key."""

    hub: Hub
    engine: Engine
    seed: int
    speak_late: Callable[[Mapping[str, object]], None]
    left: list[Leaver] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)
    _is_over: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._produce, args=(number,)) for number in range(_PRODUCERS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            for thread in threads:
                thread.join()

    def speak_of_everyone(self) -> None:
        """Once more, when all are erased."""
        for leaver in self.left:
            self.speak_late(self._earned(leaver))

    def _produce(self, number: int) -> None:
        random = Random(f"{self.seed}-{number}")
        try:
            while not self._is_over.is_set():
                self._come_and_leave(random)
                time.sleep(random.uniform(0, 2 * _PAUSE_SECONDS))
        except BaseException as error:
            self.errors.append(error)
            raise

    def _come_and_leave(self, random: Random) -> None:
        leaver = self._come()
        for _ in range(random.randint(0, 4)):
            self._until(lambda: self.hub.grant(leaver.driver), {201})
        self._track(leaver, valid=True)
        if random.random() < 0.5:
            self._track(leaver, valid=False)
        if random.random() < 0.3:
            self._track(leaver, valid=False)
            with suppress(DBAPIError):
                chosen = EventFilter(subject=leaver.driver.id)
                [*_] = operations.discard(self.engine, OUTBOX, chosen, by="soak", reason=f"not {leaver.driver.id}")
        time.sleep(random.choice((0, 0, 0.2, 1)))
        if random.random() < 0.3:
            with suppress(DBAPIError):
                operations.reveal(self.engine, OUTBOX, leaver.driver.id, by="soak")
        leave = {"headers": leaver.driver.headers}
        # 401 is what a repeat gets whose first answer was lost.
        self._until(lambda: self.hub.http.delete("/v1/driver", **leave), {202, 401})
        self.left.append(leaver)
        for _ in range(random.randint(0, 3)):
            with suppress(DBAPIError):
                self.speak_late(self._earned(leaver))

    def _come(self) -> Leaver:
        address, phone = f"{uuid4().hex}@example.com", f"+49{uuid4().int % 10**12:012d}"
        deadline = time.monotonic() + _TRIES_SECONDS
        while True:
            # While the database is away, the route answers 503.
            with suppress(AssertionError):
                return Leaver(self.hub.sign_up(email=address), address, phone)
            assert time.monotonic() < deadline, "nobody can sign up"
            time.sleep(_PAUSE_SECONDS)

    def _until(self, ask: Callable[[], Any], expected: set[int]) -> None:
        deadline = time.monotonic() + _TRIES_SECONDS
        while (answer := ask()).status_code not in expected:
            assert answer.status_code >= 500, answer.text
            assert time.monotonic() < deadline, answer.text
            time.sleep(_PAUSE_SECONDS)

    def _track(self, leaver: Leaver, *, valid: bool) -> None:
        payload = self._earned(leaver)
        if not valid:
            payload["amount"] = f"much, says {leaver.address}"
        with suppress(DBAPIError), Session(self.engine) as db, db.begin():
            track_event(db, "nova_earned", payload)

    def _earned(self, leaver: Leaver) -> dict[str, object]:
        earned = {"amount": 1, "earned_at": "2026-11-24T19:00:00Z", "email": leaver.address, "phone": leaver.phone}
        return {"user_id": leaver.driver.id, **earned}
