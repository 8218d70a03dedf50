"""One worker's part in erasures: the tables here are cleaned before and after the destination erases.

A look, once a second, cleans while the gate is shut too: that the destination cannot do its part today is no reason to
keep anything here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Engine

from sqlalchemy_outbox.claiming import watermark
from sqlalchemy_outbox.database import sqlite_files
from sqlalchemy_outbox.database.transaction import for_single_statements, transact
from sqlalchemy_outbox.erasure import erasures
from sqlalchemy_outbox.erasure.erasures import Known, Remember
from sqlalchemy_outbox.erasure.traces import Scan
from sqlalchemy_outbox.model import Event, Outbox

# Whoever was writing when the subject was forgotten may not have seen it; that takes a moment.
_WRITERS_WAIT = timedelta(milliseconds=500)
_WRITERS_EVERY = timedelta(milliseconds=50)


class Erasing:
    """`remember` is the destination's: what it needs of events that are deleted."""

    def __init__(self, outbox: Outbox, engine: Engine, remember: Remember) -> None:
        self._outbox = outbox
        self._engine = engine
        self._statement_engine = for_single_statements(engine)
        self._remember = remember
        # Of SQLite's subjects that are erased, by their names: what is looked for in the files.
        self._words: dict[str, frozenset[str]] = {}

    async def look(self) -> int:
        """Clean for erasures that wait; how many events left."""
        if not await transact(self._statement_engine, erasures.count_open, self._outbox):
            return 0
        left = await transact(self._engine, erasures.look, self._outbox, self._remember)
        if self._engine.dialect.name == "sqlite":
            await self._clean_files()
        return left

    async def begin(self, erasure: Event, refused: Sequence[Event]) -> bool:
        """Leave nothing of the subject but what the destination has to know; false where something is not over yet.

        `refused` are events that are claimed and will not be delivered.
        """
        its_refused = [event for event in refused if event.subject == erasure.subject]
        await transact(self._engine, self.keep, its_refused)
        if not await self._writers_are_over():
            return False
        has_more = True
        while has_more:
            _, has_more = await transact(self._engine, erasures.step, self._outbox, erasure, self._remember)
        return await transact(self._engine, erasures.is_free, self._outbox, erasure, [event.id for event in refused])

    def keep(self, connection: Connection, events: Sequence[Event]) -> None:
        """Keep what the destination has to know of events that are being refused."""
        erasures.keep(connection, self._outbox, events, self._remember)
        for event in events:
            remembered: Any = self._remember({}, [event]).get(erasures.WORDS, ())
            self._learn_words(event.subject, remembered)

    async def known(self, erasure: Event) -> Known:
        return await transact(self._engine, erasures.read_known, self._outbox, erasure)

    async def mentions(self, erasure: Event, texts: Sequence[str]) -> list[Event]:
        """Other subjects' events whose payloads mention one of the texts, in order."""
        found: list[Event] = []
        after: int | None = 0
        while texts and after is not None:
            some, after = await transact(
                self._engine, erasures.read_mentions, self._outbox, erasure, texts, after=after
            )
            found += some
        return found

    async def end(self, erased: Mapping[Event, Collection[str]]) -> Mapping[int, int]:
        """Take out of what is told of others the words of these erasures' subjects; in how many rows, by `id`."""
        words: dict[int, set[str]] = {}
        for erasure, some in erased.items():
            remembered: Any = (await self.known(erasure)).facts.get(erasures.WORDS, ())
            words[erasure.id] = {erasure.subject, *some, *remembered}
            self._learn_words(erasure.subject, words[erasure.id])
        scan = Scan(self._outbox, words)
        while not scan.is_over:
            await transact(self._engine, scan.step)
        return scan.counts

    async def _writers_are_over(self) -> bool:
        """Whether all have ended who may have written events without having seen that the subject was forgotten."""
        awaited = writers = await transact(self._engine, watermark.writers, self._outbox)
        for _ in range(_WRITERS_WAIT // _WRITERS_EVERY):
            if not awaited & writers:
                return True
            await asyncio.sleep(_WRITERS_EVERY.total_seconds())
            writers = await transact(self._engine, watermark.writers, self._outbox)
        return False

    async def _clean_files(self) -> None:
        """Of SQLite: of erasures that are done, leave nothing in the database's files."""
        if not (unclean := await transact(self._engine, erasures.read_unclean, self._outbox)):
            return
        # What is not known here was another process's to know.
        known = [self._words.get(name) for name in unclean.values()]
        words = None if None in known else {word for some in known if some is not None for word in some}
        if await asyncio.to_thread(sqlite_files.clean, self._engine, words):
            await transact(self._engine, erasures.note_clean, self._outbox, unclean.keys())
            for name in unclean.values():
                self._words.pop(name, None)

    def _learn_words(self, subject: str, words: Collection[str]) -> None:
        if self._engine.dialect.name == "sqlite" and (name := self._outbox.names.of(subject)) is not None:
            self._words[name] = self._words.get(name, frozenset()) | {subject, *words}
