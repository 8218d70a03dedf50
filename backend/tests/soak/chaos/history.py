"""What happened to the events: each row at the end, and every move between the states, which the database noted."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias
from uuid import UUID

from sqlalchemy import Engine, func, select, text

from sqlalchemy_outbox.model import ATTEMPTS_MAX
from tests.outbox.conftest import OUTBOX
from tests.soak.chaos.faults import Fault, Kind
from tests.soak.chaos.load import Load

_NOTE_MOVES = f"""
CREATE TABLE moves (
    seq bigserial PRIMARY KEY,
    at float8 NOT NULL,
    who text NOT NULL,
    event bigint NOT NULL,
    token_before text,
    token_after text,
    is_delivered boolean NOT NULL,
    attempts_before int NOT NULL,
    attempts_after int NOT NULL,
    last_error text
);
CREATE TABLE ended_leases (token text PRIMARY KEY, seconds_left float8 NOT NULL);
CREATE FUNCTION note_move() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO moves (at, who, event, token_before, token_after, is_delivered, attempts_before, attempts_after,
                       last_error)
    VALUES (extract(epoch FROM clock_timestamp()), current_setting('application_name'), new.id, old.claim_token,
            new.claim_token, new.processed_at IS NOT NULL, old.attempt_count, new.attempt_count, new.last_error);
    RETURN NULL;
END $$;
CREATE FUNCTION note_end_of_lease() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO ended_leases (token, seconds_left)
    VALUES (old.token, extract(epoch FROM old.until - clock_timestamp()));
    RETURN NULL;
END $$;
CREATE TRIGGER note_move AFTER UPDATE ON {OUTBOX.name} FOR EACH ROW
WHEN ((old.claim_token, old.processed_at, old.failed_at, old.attempt_count)
      IS DISTINCT FROM (new.claim_token, new.processed_at, new.failed_at, new.attempt_count))
EXECUTE FUNCTION note_move();
CREATE TRIGGER note_end_of_lease AFTER DELETE ON {OUTBOX.leases.name} FOR EACH ROW
EXECUTE FUNCTION note_end_of_lease();
"""

_MOVES = """
SELECT at, who, event, token_before, token_after, is_delivered, attempts_before, attempts_after, last_error,
       seconds_left
FROM moves LEFT JOIN ended_leases ON token = token_before AND token_after IS NULL
"""

_records = OUTBOX.records
_UNANSWERED = (
    select(_records.delivery_events.c.event_id, func.count().label("requests"))
    .join(_records.deliveries, _records.deliveries.c.id == _records.delivery_events.c.delivery_id)
    .where(_records.deliveries.c.status.is_(None))
    .group_by(_records.delivery_events.c.event_id)
)

Hold: TypeAlias = tuple[int, str]
"""One event under one claim: its id and the token."""


@dataclass(frozen=True, slots=True)
class Move:
    """`who` is the worker whose statement moved it; if that ended a lease, so much of it was left."""

    at: float
    who: str
    event: int
    token_before: str | None
    token_after: str | None
    is_delivered: bool
    attempts_before: int
    attempts_after: int
    last_error: str | None
    seconds_left: float | None

    @property
    def has_run_out(self) -> bool:
        return self.seconds_left is not None and self.seconds_left <= 0

    @property
    def is_charge(self) -> bool:
        return self.attempts_after > self.attempts_before


@dataclass(frozen=True, slots=True)
class EventRow:
    """The `n`-th event of its subject, as it is in the end."""

    id: int
    event_id: UUID
    subject: str
    n: int
    is_delivered: bool
    is_claimed: bool
    attempt_count: int


def note_moves(engine: Engine) -> None:
    """Have the database note every move from now on."""
    with engine.begin() as connection:
        connection.execute(text(_NOTE_MOVES))


@dataclass(frozen=True)
class History:
    rows: Sequence[EventRow]
    moves: Sequence[Move]
    load: Load
    faults: Sequence[Fault]
    # How many requests with an event got no answer.
    unanswered: Mapping[int, int]

    @classmethod
    def read(cls, engine: Engine, load: Load, faults: Sequence[Fault]) -> History:
        c = OUTBOX.events.c
        statement = select(
            *(c.id, c.event_id, c.subject, c.payload, c.processed_at, c.claim_token, c.attempt_count)
        ).order_by(c.id)
        with engine.connect() as connection:
            moves = [Move(*row) for row in connection.execute(text(f"{_MOVES} ORDER BY at, seq"))]
            rows = [
                EventRow(
                    *(row.id, row.event_id, row.subject, json.loads(row.payload)[load.counter]),
                    *(row.processed_at is not None, row.claim_token is not None, row.attempt_count),
                )
                for row in connection.execute(statement)
            ]
            unanswered = {row.event_id: row.requests for row in connection.execute(_UNANSWERED)}
        return cls(rows, moves, load, faults, unanswered)

    def lost(self) -> set[UUID]:
        """Events whose commit returned, and which are not there."""
        return self.load.acknowledged - {row.event_id for row in self.rows}

    def objections(self) -> Iterator[str]:
        yield from (f"event {event_id} is lost, though its commit returned" for event_id in self.lost())
        yield from self.about_what_exists()
        yield from self._about_the_fence()
        yield from self._about_one_claim_per_subject()
        yield from self._about_charges()

    def figures(self) -> dict[str, object]:
        return {
            "transactions": dict(self.load.counts),
            "events undone by a rollback": len(self.load.undone),
            "events committed": len(self.rows),
            "events delivered": sum(it.is_delivered for it in self.rows),
            "events failed, their workers killed or stopped three times": sum(
                it.attempt_count == ATTEMPTS_MAX for it in self.rows
            ),
            "leases that ran out, events": sum(it.has_run_out and it.is_charge for it in self.moves),
            "attempts charged": sum(it.is_charge for it in self.moves),
            "most attempts of an event": max((it.attempt_count for it in self.rows), default=0),
        }

    def about_what_exists(self) -> Iterator[str]:
        """A driver's row and their events are of the same transactions: there together, or not at all."""
        numbers: defaultdict[str, list[int]] = defaultdict(list)
        for row in self.rows:
            numbers[row.subject].append(row.n)
            if row.event_id in self.load.undone:
                yield f"event {row.id} is of a transaction that was rolled back"
            # One whose worker was killed or stopped three times is failed; `_about_charges` looks at each of them.
            if not row.is_delivered and row.attempt_count < ATTEMPTS_MAX:
                yield f"event {row.id} of {row.subject} is not delivered, after {row.attempt_count} attempts"
            if row.is_claimed:
                yield f"event {row.id} is claimed, and nobody runs"
        for subject, n in self.load.reached().items():
            if numbers[subject] != list(range(1, n + 1)):
                yield f"{subject} is at {n}, and its events are {numbers[subject]}"

    def _about_the_fence(self) -> Iterator[str]:
        """Only its holder ends a claim; others charge what ran out, and nobody moves what nobody holds."""
        for move in self.moves:
            if move.token_before is None:
                if move.token_after is None:
                    yield f"event {move.event} was moved by {move.who} while nobody held it"
                continue
            holder = self.holder_of[move.event, move.token_before]
            if move.token_after is not None:
                yield f"event {move.event} was claimed by {move.who} while {holder} held it"
            elif move.who != holder and (move.is_delivered or not move.has_run_out):
                yield f"event {move.event} was settled by {move.who}; {holder}'s lease had {move.seconds_left} s left"

    def _about_one_claim_per_subject(self) -> Iterator[str]:
        holding: defaultdict[str, dict[int, str]] = defaultdict(dict)
        for move in self.moves:
            held = holding[self.row_of[move.event].subject]
            held.pop(move.event, None)
            if move.token_after is None:
                continue
            if move.token_before is None and (others := set(held.values()) - {move.token_after}):
                yield f"event {move.event} was claimed by {move.who} while its subject was held under {others}"
            held[move.event] = move.token_after

    def _about_charges(self) -> Iterator[str]:
        """Nothing is wrong with any event, so only a lease that its worker could not keep costs an attempt.

        Or the destination was late with the same event twice while it answered others: what it cannot digest looks so.
        """
        for move in self.moves:
            if not move.is_charge:
                continue
            if move.attempts_after != move.attempts_before + 1:
                yield f"event {move.event} went from {move.attempts_before} attempts to {move.attempts_after} at once"
            if not move.has_run_out and self.unanswered.get(move.event, 0) < 2:
                yield f"event {move.event} was charged by {move.who}, and not for a lost lease: {move.last_error}"
            elif move.has_run_out and not self.is_hit(
                hold := (move.event, str(move.token_before)), (Kind.KILL, Kind.STOP)
            ):
                yield f"event {move.event} was charged though {self.holder_of[hold]} was neither killed nor stopped"
        yield from (
            f"event {it.id} has {it.attempt_count} attempts" for it in self.rows if it.attempt_count > ATTEMPTS_MAX
        )

    def is_hit(self, hold: Hold, kinds: Collection[Kind] = tuple(Kind)) -> bool:
        """Whether a fault hit the event's holder between the claim and the event's leaving it."""
        holder, since, until = self.holder_of[hold], self.claimed_at[hold], self.left_at[hold]
        return any(it.kind in kinds and it.hits(holder, since, until) for it in self.faults)

    @cached_property
    def row_of(self) -> dict[int, EventRow]:
        return {it.id: it for it in self.rows}

    @cached_property
    def holder_of(self) -> dict[Hold, str]:
        return {(it.event, it.token_after): it.who for it in self.moves if it.token_after is not None}

    @cached_property
    def claimed_at(self) -> dict[Hold, float]:
        return {(it.event, it.token_after): it.at for it in self.moves if it.token_after is not None}

    @cached_property
    def left_at(self) -> dict[Hold, float]:
        return {(it.event, it.token_before): it.at for it in self.moves if it.token_before is not None}

    @cached_property
    def delivered_under(self) -> dict[Hold, float]:
        """The holds that ended in a delivery, and when."""
        return {
            (it.event, it.token_before): it.at for it in self.moves if it.is_delivered and it.token_before is not None
        }
