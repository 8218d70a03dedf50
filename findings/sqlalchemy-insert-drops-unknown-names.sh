#!/usr/bin/env bash
# A name that the table does not have is refused in values(), but dropped in silence among the parameters of an INSERT or
# of an UPDATE by primary key.
#
# SQLAlchemy 2.1.9. Guess: "Unconsumed column names" is raised wherever the name stands.
# Seen: the row is stored without the value, for a dictionary and for a list of them, for an entity and for a table; an
# UPDATE of nothing but such a name succeeds.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "SQLAlchemy==2.1.9"
"$folder/venv/bin/python" - <<'PY'
from sqlalchemy import create_engine, insert, select, update
from sqlalchemy.exc import CompileError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


class Base(DeclarativeBase):
    pass


class Contact(Base):
    __tablename__ = "contact"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str | None]


engine = create_engine("sqlite://")
Base.metadata.create_all(engine)
with Session(engine) as session:
    session.execute(insert(Contact), {"id": 1, "emial": "a@example.com"})
    session.execute(insert(Contact), [{"id": 2, "emial": "b@example.com"}])
    session.connection().execute(insert(Contact.__table__), {"id": 3, "emial": "c@example.com"})
    session.execute(update(Contact), [{"id": 3, "emial": "d@example.com"}])
    rows = [tuple(row) for row in session.execute(select(Contact.id, Contact.email).order_by(Contact.id))]
    print("stored:", rows)
    try:
        session.execute(insert(Contact).values(id=4, emial="e@example.com"))
    except CompileError as error:
        print("values():", error)
    else:
        raise SystemExit("the behaviour has changed: values() takes the name too")
if rows != [(1, None), (2, None), (3, None)]:
    raise SystemExit("the behaviour has changed")
PY
