#!/usr/bin/env bash
# A field that is annotated `datetime` takes only values with an offset, and its column is TIMESTAMP WITH TIME ZONE.
#
# SQLModel 0.0.50 with SQLAlchemy 2.1.9. Guess: as with SQLAlchemy's DateTime, a naive value is stored as it stands and
# the column has no time zone.
# Seen: flushing a naive value raises, so datetime.utcnow() and datetime.now() no longer work; an instant with an offset is
# stored in UTC and read back with it, on SQLite too.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "sqlmodel==0.0.50" "SQLAlchemy==2.1.9"
"$folder/venv/bin/python" - <<'PY'
from datetime import datetime, timedelta, timezone

from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import StatementError
from sqlmodel import Field, Session, SQLModel, create_engine, select


class Visit(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    at: datetime


column_type = Visit.__table__.c.at.type.compile(postgresql.dialect())
print("on PostgreSQL:", column_type)
engine = create_engine("sqlite://")
SQLModel.metadata.create_all(engine)
with Session(engine) as session:
    session.add(Visit(at=datetime(2026, 1, 2, 3, tzinfo=timezone(timedelta(hours=5)))))
    session.commit()
    read_back = session.exec(select(Visit)).one().at
    print("read back:", read_back)
    session.add(Visit(at=datetime(2026, 1, 2, 3)))
    try:
        session.commit()
    except StatementError as error:
        print("naive:", str(error.orig))
    else:
        raise SystemExit("the behaviour has changed: a naive value is stored")
if column_type != "TIMESTAMP WITH TIME ZONE" or read_back.isoformat() != "2026-01-01T22:00:00+00:00":
    raise SystemExit("the behaviour has changed")
PY
