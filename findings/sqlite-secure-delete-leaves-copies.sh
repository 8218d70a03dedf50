#!/usr/bin/env bash
# With secure_delete on, and the write-ahead log emptied, deleted texts are still in the database's file.
#
# SQLite 3.40.1, as Python 3.11 on Debian 12 has it. Guess: secure_delete overwrites what is deleted. Seen: when a page of
# a B-tree is divided or joined, its rows move and their copies stay in its unused space; a later delete overwrites the
# rows where they are now. VACUUM writes the file anew, and none is left.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 - "$folder/e.db" <<'PY'
import random
import sqlite3
import sys

file = sys.argv[1]
connection = sqlite3.connect(file, isolation_level=None)
connection.execute("PRAGMA journal_mode = WAL")
connection.execute("PRAGMA secure_delete = ON")
connection.execute("CREATE TABLE e (id INTEGER PRIMARY KEY, subject TEXT, payload TEXT, claim TEXT)")
connection.execute("CREATE INDEX i ON e (subject, id)")
draw = random.Random(1)
live, gone = [], []
for number in range(5000):
    live.append(f"subject-{number:05}-{draw.getrandbits(64):x}")
    row = (live[-1], live[-1] + "x" * draw.randint(0, 400))
    connection.execute("INSERT INTO e (subject, payload) VALUES (?, ?)", row)
    connection.execute("UPDATE e SET claim = ? WHERE subject = ?", ("c" * draw.choice((0, 32)), draw.choice(live)))
    if len(live) > 60 or draw.random() < 0.3:
        gone.append(live.pop(draw.randrange(len(live))))
        if draw.random() < 0.5:
            connection.execute("DELETE FROM e WHERE subject = ?", (gone[-1],))
        else:
            connection.execute("UPDATE e SET subject = ?, payload = '{}' WHERE subject = ?", (f"{number:064}", gone[-1]))


def left():
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = open(file, "rb").read()
    return sum(subject.encode() in content for subject in gone)


deleted, before = len(gone), left()
connection.execute("VACUUM")
print(f"SQLite {sqlite3.sqlite_version}: of {deleted} deleted texts {before} are left in the file, after VACUUM {left()}")
assert before > 0 and left() == 0
PY
