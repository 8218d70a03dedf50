#!/usr/bin/env bash
# What a session writes by bulk_save_objects or bulk_insert_mappings is rolled back by a commit that succeeds, unless the
# session writes something else too.
#
# zope.sqlalchemy 4.1 with SQLAlchemy 2.1.9. Guess: only raw SQL and tables need mark_changed(); every method of the ORM that
# writes marks the session, as add() does, and as execute(insert(Entity)) has done since it is told of statements.
# Seen: after transaction.commit() the rows of the two bulk methods are missing, and no error or warning says so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "zope.sqlalchemy==4.1" "SQLAlchemy==2.1.9"
"$folder/venv/bin/python" - "$folder" <<'PY'
import sys

import transaction
import zope.sqlalchemy
from sqlalchemy import create_engine, func, insert, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker


class Base(DeclarativeBase):
    pass


class Row(Base):
    __tablename__ = "t"
    id: Mapped[int] = mapped_column(primary_key=True)


engine = create_engine(f"sqlite:///{sys.argv[1]}/rows.db")
ways = {
    "add": lambda session: session.add(Row(id=1)),
    "insert(Row)": lambda session: session.execute(insert(Row), [{"id": 1}]),
    "bulk_save_objects": lambda session: session.bulk_save_objects([Row(id=1)]),
    "bulk_insert_mappings": lambda session: session.bulk_insert_mappings(Row, [{"id": 1}]),
}
stored = {}
for name, write in ways.items():
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    sessions = scoped_session(sessionmaker(engine))
    zope.sqlalchemy.register(sessions)
    write(sessions())
    transaction.commit()
    with Session(engine) as reader:
        stored[name] = reader.scalar(select(func.count()).select_from(Row))
print("stored:", stored)
if stored != {"add": 1, "insert(Row)": 1, "bulk_save_objects": 0, "bulk_insert_mappings": 0}:
    raise SystemExit("the behaviour has changed")
PY
