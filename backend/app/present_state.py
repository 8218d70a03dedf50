"""How drivers stand now, as the events that say it: what `resync` sends to HubSpot again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased, selectinload

from app import lifecycle
from app.models import Driver, NovaGrant, Redemption
from hubspot_sync.present_state import PresentEvent, PresentState

OfDriver = TypeVar("OfDriver", NovaGrant, Redemption)


def events_of(db: Session, subjects: Sequence[str]) -> Mapping[str, Sequence[PresentEvent]]:
    """Each driver's present state. Locks the drivers, in the order of their ids, so that two callers never deadlock."""
    names = dict(_names_by_id(subjects))
    drivers = db.scalars(
        select(Driver)
        .where(Driver.id.in_(names))
        .order_by(Driver.id)
        .with_for_update()
        .options(selectinload(Driver.wallet), selectinload(Driver.passes))
    ).all()
    earned = _latest(db, NovaGrant, NovaGrant.ended_at, NovaGrant.driver_id.in_(names), NovaGrant.amount > 0)
    redeemed = _latest(db, Redemption, Redemption.redeemed_at, Redemption.driver_id.in_(names))
    first = _latest(
        db, Redemption, Redemption.redeemed_at, Redemption.driver_id.in_(names), Redemption.is_first.is_(True)
    )
    return {
        names[driver.id]: list(_events_of(driver, earned.get(driver.id), redeemed.get(driver.id), first.get(driver.id)))
        for driver in drivers
    }


def subjects_after(db: Session, after: str | None, limit: int) -> Sequence[str]:
    ids = db.scalars(select(Driver.id).where(*_is_after(after)).order_by(Driver.id).limit(limit))
    return [str(id_) for id_ in ids]


def count_after(db: Session, after: str | None) -> int:
    return db.scalars(select(func.count()).select_from(Driver).where(*_is_after(after))).one()


PRESENT_STATE = PresentState(events_of, subjects_after, count_after)


def _events_of(
    driver: Driver, earned: NovaGrant | None, redeemed: Redemption | None, first: Redemption | None
) -> Iterator[PresentEvent]:
    """Of each kind the latest one: what it says holds for all before it, because totals are absolute."""
    yield PresentEvent("driver_signed_up", lifecycle.driver_signed_up(driver))
    if driver.passes:
        yield PresentEvent("wallet_pass_installed", lifecycle.wallet_pass_installed(driver.passes[-1]))
    if earned is not None:
        yield PresentEvent("nova_earned", lifecycle.nova_earned(earned))
    if redeemed is not None:
        yield PresentEvent("nova_redeemed", lifecycle.nova_redeemed(redeemed))
    if first is not None:
        yield PresentEvent("first_redemption_completed", lifecycle.first_redemption_completed(first))


def _latest(
    db: Session, of: type[OfDriver], moment: InstrumentedAttribute[datetime], *conditions: ColumnElement[bool]
) -> dict[UUID, OfDriver]:
    """Of these rows each driver's latest, by driver. Relies on the indexes that begin with `driver_id`."""
    rank = func.row_number().over(partition_by=of.driver_id, order_by=moment.desc()).label("rank")
    ranked = select(of, rank).where(*conditions).subquery()
    latest = aliased(of, ranked)
    return {latest_of.driver_id: latest_of for latest_of in db.scalars(select(latest).where(ranked.c.rank == 1))}


def _names_by_id(subjects: Sequence[str]) -> Iterator[tuple[UUID, str]]:
    for subject in subjects:
        with suppress(ValueError):
            yield UUID(subject), subject


def _is_after(after: str | None) -> list[ColumnElement[bool]]:
    if after is None:
        return []
    try:
        return [Driver.id > UUID(after)]
    except ValueError:
        raise ValueError(f"{after} is no driver's id") from None
