#!/usr/bin/env bash
# After a flush that failed inside of a savepoint, the session keeps what is added next if the savepoint's `with` block
# is left without an error, and throws it away if the savepoint is rolled back by name.
#
# SQLAlchemy 2.1.9 with SQLite. Guess: the savepoint is dead after the failed flush, so both ways discard the object, or
# the `with` block raises on its way out.
# Seen: the block ends in silence, and the outer commit stores the object; after rollback() it is not stored.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "SQLAlchemy==2.1.9"
"$folder/venv/bin/python" -W ignore - <<'PY'
from sqlalchemy import create_engine, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


class Base(DeclarativeBase):
    pass


class Row(Base):
    __tablename__ = "t"
    id: Mapped[int] = mapped_column(primary_key=True)


def fail_a_flush_then_add(session):
    session.add(Row(id=1))
    try:
        session.flush()
    except IntegrityError:
        pass
    session.add(Row(id=2))


def leave_the_block(session):
    with session.begin_nested():
        fail_a_flush_then_add(session)


def roll_back(session):
    savepoint = session.begin_nested()
    fail_a_flush_then_add(session)
    savepoint.rollback()


stored = {}
for way in (leave_the_block, roll_back):
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.add(Row(id=1))
    with Session(engine) as session:
        way(session)
        session.commit()
        stored[way.__name__] = session.scalars(select(Row.id).order_by(Row.id)).all()
print("stored:", stored)
if stored != {"leave_the_block": [1, 2], "roll_back": [1]}:
    raise SystemExit("the behaviour has changed")
PY
