#!/usr/bin/env bash
# If a listener of the engine's `commit` event raises, the transaction is neither committed nor rolled back, and the rows
# are committed by whoever uses the pooled connection next.
#
# SQLAlchemy 2.1.9 with SQLite. Guess: the exception makes the transaction roll back, as one of a session's hooks does.
# Seen: no ROLLBACK is sent; the next transaction's commit stores the first one's row too.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "SQLAlchemy==2.1.9"
"$folder/venv/bin/python" - "$folder" <<'PY'
import sys

from sqlalchemy import create_engine, event, text

engine = create_engine(f"sqlite:///{sys.argv[1]}/rows.db")
with engine.begin() as connection:
    connection.execute(text("CREATE TABLE t (name TEXT)"))
is_refusing = True


@event.listens_for(engine, "commit")
def refuse(_connection):
    if is_refusing:
        raise ValueError("refused")


connection = engine.connect()
transaction = connection.begin()
connection.execute(text("INSERT INTO t VALUES ('refused')"))
try:
    transaction.commit()
except ValueError:
    pass
is_refusing = False
connection.close()
with engine.begin() as connection:
    connection.execute(text("INSERT INTO t VALUES ('next')"))
with engine.connect() as reader:
    names = [row[0] for row in reader.execute(text("SELECT name FROM t ORDER BY name"))]
print("stored:", names)
if names != ["next", "refused"]:
    raise SystemExit("the behaviour has changed")
PY
