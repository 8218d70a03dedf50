"""What is kept of subjects: where each was delivered to, and who was forgotten.

A subject that was forgotten has no row in `subjects` any more. Its erasures name it by a keyed hash (see `names`).
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Column, Identity, Index, Integer, MetaData, Table, Text, UniqueConstraint
from sqlalchemy.types import TypeEngine

from sqlalchemy_outbox.clock import Instant
from sqlalchemy_outbox.fillfactor import set_fillfactor
from sqlalchemy_outbox.text import AnyText


def declare_subjects(metadata: MetaData, name: str) -> Table:
    """One row for each subject that was delivered: the record that the last delivery reached, and by which key."""
    subjects = Table(
        f"{name}_subjects",
        metadata,
        Column("subject", AnyText, primary_key=True),
        Column("record_id", AnyText, nullable=False),
        Column("key_property", AnyText, nullable=False),
        Column("first_delivered_at", Instant, nullable=False),
        Column("last_delivered_at", Instant, nullable=False),
    )
    # Each delivery of a subject writes its row anew.
    set_fillfactor(subjects, 80)
    return subjects


def declare_erasures(metadata: MetaData, name: str, event_id: TypeEngine[Any]) -> Table:
    """One row for each time that a subject was forgotten: the mark by which its events are refused, and what was done.

    Ids grow in the order of commits, so that who knows all up to one misses none.
    """
    erasures = Table(
        f"{name}_erasures",
        metadata,
        Column("id", BigInteger().with_variant(Integer, "sqlite"), Identity(), primary_key=True),
        # The subject, by a keyed hash; and which key that was, by another one.
        Column("name", Text, nullable=False),
        Column("key_name", Text, nullable=False),
        Column("event_id", event_id, nullable=False),
        Column("way", Text, nullable=False),
        Column("reason", AnyText, nullable=False),
        Column("forgotten_at", Instant, nullable=False),
        # When a worker looks next whether anything of the subject is left to be refused.
        Column("look_at", Instant, nullable=False),
        # The destination has confirmed it; `told` is what it said, and `removed` what was deleted here.
        Column("erased_at", Instant),
        Column("told", Text),
        Column("removed", Text),
        # Nothing of the subject is left here, the database's files included.
        Column("cleaned_at", Instant),
        UniqueConstraint("event_id", name=f"uq_{name}_erasures_event_id"),
        sqlite_autoincrement=True,
    )
    is_open = erasures.c.cleaned_at.is_(None)
    Index(f"ix_{name}_erasures_name", erasures.c.name)
    Index(f"ix_{name}_erasures_open", erasures.c.id, postgresql_where=is_open, sqlite_where=is_open)
    return erasures
