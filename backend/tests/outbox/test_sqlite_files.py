"""Nothing of what was deleted stays in a byte of SQLite's files, whatever its pages went through."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

from sqlalchemy import Engine, create_engine, text

from sqlalchemy_outbox.database import sqlite_files
from sqlalchemy_outbox.database.sqlite import configure_engine


def fill_and_delete(engine: Engine, seed: int) -> list[str]:
    """What was deleted, while pages were divided and joined; each statement commits."""
    random = Random(seed)
    live: list[str] = []
    gone: list[str] = []
    connection: Any = engine.raw_connection()
    execute = connection.driver_connection.execute
    execute("CREATE TABLE e (id INTEGER PRIMARY KEY, subject TEXT, payload TEXT, claim TEXT)")
    execute("CREATE INDEX i ON e (subject, id)")
    for number in range(3000):
        live.append(f"subject-{number:05}-{random.getrandbits(64):x}")
        row = (live[-1], live[-1] + "x" * random.randint(0, 400))
        execute("INSERT INTO e (subject, payload) VALUES (?, ?)", row)
        execute("UPDATE e SET claim = ? WHERE subject = ?", ("c" * random.choice((0, 32)), random.choice(live)))
        if len(live) > 60 or random.random() < 0.3:
            gone.append(live.pop(random.randrange(len(live))))
            if random.random() < 0.5:
                execute("DELETE FROM e WHERE subject = ?", (gone[-1],))
            else:
                execute("UPDATE e SET subject = ?, payload = '{}' WHERE subject = ?", (f"gone-{number:064}", gone[-1]))
    connection.close()
    return gone


def left_in(file: Path, words: list[str]) -> list[str]:
    contents = [path.read_bytes() for path in file.parent.glob(f"{file.name}*")]
    return [word for word in words if any(word.encode() in content for content in contents)]


def test_copies_in_the_unused_space_of_pages_are_found_and_written_over(tmp_path: Path) -> None:
    file = tmp_path / "e.db"
    engine = create_engine(f"sqlite:///{file}")
    configure_engine(engine)
    gone = fill_and_delete(engine, seed=1)
    assert sqlite_files.clean(engine, gone)
    assert left_in(file, gone) == []
    engine.dispose()


def test_files_that_somebody_reads_are_cleaned_later(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'e.db'}")
    configure_engine(engine)
    gone = fill_and_delete(engine, seed=2)
    with create_engine(engine.url).connect() as reader:
        reader.exec_driver_sql("BEGIN")
        reader.exec_driver_sql("SELECT count(*) FROM e").all()
        with engine.begin() as connection:
            connection.execute(text("DELETE FROM e"))
        assert not sqlite_files.clean(engine, gone)
        reader.exec_driver_sql("COMMIT")
    assert sqlite_files.clean(engine, gone)
    engine.dispose()
