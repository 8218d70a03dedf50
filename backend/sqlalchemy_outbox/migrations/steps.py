"""A step: one change of the outbox's tables, as SQL for each database, with the way back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy import Connection, inspect, text

if TYPE_CHECKING:
    from sqlalchemy_outbox.model import Outbox

DIALECTS = ("postgresql", "sqlite")
_FOLDER = files("sqlalchemy_outbox.migrations")
# 0001_create_the_outbox.sql begins with these lines.
_HEAD = re.compile(r"-- (\d{4}) (.+)\n-- (Lock: (?:.+\n-- )*?.+)\n-- Known by: (\S+)\.(\w+)\n")
_NAME = re.compile(r"[a-z_][a-z0-9_]*")


class Direction(StrEnum):
    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Step:
    """`title` is a sentence, `price` says what the step locks and for how long.

    A database has taken the step if its table `known_by[0]` has the column `known_by[1]`.
    """

    number: int
    title: str
    price: str
    known_by: tuple[str, str]
    sql: str

    def statements(self, direction: Direction, name: str, schema: str | None = None) -> list[str]:
        """The step's statements for an outbox of this name."""
        _, _, up_and_down = self.sql.partition("\n-- up\n")
        up, _, down = up_and_down.partition("\n-- down\n")
        written = up if direction is Direction.UP else down
        placed = written.replace("{schema}", f"{schema}." if schema else "").replace("{name}", name)
        return [statement.strip() for statement in re.split(r";\s*(?:\n|\Z)", placed) if statement.strip()]


class AlembicOperations(Protocol):
    """Alembic's `op`, as far as a step needs it; offline too."""

    def execute(self, sqltext: Any) -> Any: ...

    def get_context(self) -> Any: ...


def upgrade(op: AlembicOperations | Connection, number: int, *, name: str = "outbox_events", schema: str = "") -> None:
    """Take a step, in the transaction of Alembic's `op` or of a connection.

    `name` is the outbox's, `schema` that of its metadata. Raises ValueError for a step that does not exist, a database
    that is neither PostgreSQL nor SQLite, and names that would have to be quoted.
    """
    _execute(op, number, Direction.UP, name, schema)


def downgrade(
    op: AlembicOperations | Connection, number: int, *, name: str = "outbox_events", schema: str = ""
) -> None:
    """Take a step back. What only the step's tables and columns hold is dropped. Raises as `upgrade` does."""
    _execute(op, number, Direction.DOWN, name, schema)


def migrate(connection: Connection, outbox: Outbox) -> list[Step]:
    """Take the steps that the database lacks, in order, in the connection's transaction; return them."""
    lacking = missing(connection, outbox)
    for step in lacking:
        upgrade(connection, step.number, name=outbox.name, schema=outbox.events.schema or "")
    return lacking


def missing(connection: Connection, outbox: Outbox) -> list[Step]:
    """The steps that the database lacks, in order."""
    return [step for step in steps(connection.dialect.name) if not _is_taken(connection, outbox, step)]


def steps(dialect: str) -> list[Step]:
    """All steps of a dialect, `postgresql` or `sqlite`, in order."""
    if dialect not in DIALECTS:
        raise ValueError(f"there are no steps for {dialect}; there are for {' and '.join(DIALECTS)}")
    return sorted(_read(_FOLDER / dialect), key=lambda step: step.number)


def latest() -> int:
    """The number of the newest step."""
    return steps(DIALECTS[0])[-1].number


def _read(folder: Traversable) -> Iterator[Step]:
    for file in folder.iterdir():
        if file.name.endswith(".sql"):
            sql = file.read_text(encoding="utf-8")
            if (head := _HEAD.match(sql)) is None:
                raise ValueError(f"{file.name} does not begin with its number, its price and what it is known by")
            number, title, price, table, column = head.groups()
            yield Step(int(number), title, price.replace("\n-- ", " "), (table, column), sql)


def _execute(op: AlembicOperations | Connection, number: int, direction: Direction, name: str, schema: str) -> None:
    dialect: str = (op if isinstance(op, Connection) else op.get_context()).dialect.name
    step = next((step for step in steps(dialect) if step.number == number), None)
    if step is None:
        raise ValueError(f"there is no step {number}; the newest is {latest()}")
    for part in (name, schema):
        if part and not _NAME.fullmatch(part):
            raise ValueError(f"{part!r} would have to be quoted; name it in lower case, or use metadata.create_all")
    for statement in step.statements(direction, name, schema):
        op.execute(text(statement))


def _is_taken(connection: Connection, outbox: Outbox, step: Step) -> bool:
    table, column = step.known_by
    inspector, table, schema = inspect(connection), table.replace("{name}", outbox.name), outbox.events.schema
    if not inspector.has_table(table, schema):
        return False
    return any(found["name"] == column for found in inspector.get_columns(table, schema))
