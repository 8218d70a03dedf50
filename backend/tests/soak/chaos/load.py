"""The business: transactions that move drivers on, each step an event; some of them think better of it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from uuid import UUID

from sqlalchemy import Column, Engine, Integer, MetaData, Table, Text, insert, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

ACCOUNTS = Table(
    "accounts", MetaData(), Column("subject", Text, primary_key=True), Column("n", Integer, nullable=False)
)
SUBJECTS = [f"driver-{number}" for number in range(40)]
_PRODUCERS = 2
_PAUSE_SECONDS = 0.03


@dataclass(slots=True)
class Load:
    """`track(session, subject, n)` enqueues a driver's n-th event, with n in its payload as `counter`.

    `undone` are the events of transactions and savepoints that were rolled back, `acknowledged` those of commits that
    returned. Of a commit that lost its connection only the database knows whether it happened; `counts` has them as
    unknown.
    """

    engine: Engine
    seed: int
    counter: str
    track: Callable[[Session, str, int], UUID]
    undone: set[UUID] = field(default_factory=set)
    acknowledged: set[UUID] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    errors: list[BaseException] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _is_over: threading.Event = field(default_factory=threading.Event)

    def prepare(self) -> None:
        with self.engine.begin() as connection:
            ACCOUNTS.create(connection)
            connection.execute(insert(ACCOUNTS), [{"subject": it, "n": 0} for it in SUBJECTS])

    @contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._produce, args=(number,)) for number in range(_PRODUCERS)]
        for it in threads:
            it.start()
        try:
            yield
        finally:
            self._is_over.set()
            for it in threads:
                it.join()

    def reached(self) -> dict[str, int]:
        """How many events of each driver are committed, by their rows of the business."""
        with self.engine.connect() as connection:
            return {row.subject: row.n for row in connection.execute(select(ACCOUNTS))}

    def objections(self) -> list[str]:
        return [f"a producer ended: {it!r}" for it in self.errors]

    def touch_everyone(self) -> None:
        """One event more of each driver."""
        with Session(self.engine) as session, session.begin():
            for subject in SUBJECTS:
                self._step(session, subject)

    def _produce(self, number: int) -> None:
        random = Random(f"{self.seed}-{number}")
        while not self._is_over.is_set():
            try:
                self._do_business(random)
            except DBAPIError:
                self._count("unknown")
                time.sleep(_PAUSE_SECONDS * 10)
            except BaseException as error:
                self.errors.append(error)
                raise
            time.sleep(random.uniform(0, 2 * _PAUSE_SECONDS))

    def _do_business(self, random: Random) -> None:
        """One transaction about one to three drivers, whose rows are locked in order before it begins to track."""
        subjects = sorted(random.sample(SUBJECTS, random.randint(1, 3)))
        is_undone = random.random() < 0.15
        with Session(self.engine) as session:
            session.execute(
                select(ACCOUNTS).where(ACCOUNTS.c.subject.in_(subjects)).order_by("subject").with_for_update()
            )
            tracked = [self._step(session, subject) for subject in subjects for _ in range(random.randint(1, 3))]
            if random.random() < 0.2:
                with session.begin_nested() as savepoint:
                    self._undo(self._step(session, subjects[0]))
                    savepoint.rollback()
            if is_undone:
                self._undo(*tracked)
                session.rollback()
                self._count("rolled back")
            else:
                session.commit()
                with self._lock:
                    self.acknowledged.update(tracked)
                self._count("committed")

    def _step(self, session: Session, subject: str) -> UUID:
        mine = ACCOUNTS.c.subject == subject
        n = session.execute(
            update(ACCOUNTS).where(mine).values(n=ACCOUNTS.c.n + 1).returning(ACCOUNTS.c.n)
        ).scalar_one()
        return self.track(session, subject, n)

    def _undo(self, *event_ids: UUID) -> None:
        with self._lock:
            self.undone.update(event_ids)

    def _count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1
