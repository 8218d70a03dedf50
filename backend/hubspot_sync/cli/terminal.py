"""What every command needs: the integration, who is at the terminal, and the terminal itself."""

from __future__ import annotations

import getpass
import json
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text
from sqlalchemy.exc import DataError, DBAPIError

from hubspot_sync.errors import HubSpotError
from sqlalchemy_outbox import operations
from sqlalchemy_outbox.delivering.retrying import ask_or_advise
from sqlalchemy_outbox.gate.gate import GateShut

if TYPE_CHECKING:
    from rich.progress import Progress

    from hubspot_sync.integration import Integration


class Terminal(Console):
    """What others wrote, events and HubSpot, is shown here: it moves no cursor, and none of it is markup."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, soft_wrap=True, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str("\n".join(map(printable, text.split("\n"))), **options)


console = Terminal()

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document, for scripts.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do it. Without, only say what would be done.")]
Reveal = Annotated[bool, typer.Option("--reveal", help="Show personal data. The audit keeps who looked, and at whom.")]

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Done(Protocol):
    """How far a verb has come."""

    @property
    def done(self) -> int: ...

    @property
    def total(self) -> int: ...


@contextmanager
def opened(
    context: typer.Context, *, needs_file: bool = True, log_level: int = logging.WARNING
) -> Iterator[Integration]:
    """The integration for one command; what a person can mend ends it with exit code 1 and one line.

    A command says itself what it did; of the log, its terminal shows warnings about anything else.
    """
    try:
        integration: Integration = context.obj()
    except ValidationError as error:
        problems = (
            f"{'.'.join(map(str, detail['loc'])).upper()}: {detail['msg']}"
            for detail in error.errors(include_input=False)
        )
        raise fail("; ".join(problems)) from None
    try:
        if needs_file:
            require_file(integration)
        with _logged_from(log_level):
            yield integration
    except DataError as error:
        raise fail(f"The database takes no such value ({_first_line(error)}).") from error
    except DBAPIError as error:
        advice = ask_or_advise(error)
        if advice.endswith("?"):
            advice = f"{advice} If not, {integration.how_to_migrate}."
        raise fail(f"The database does not serve the outbox ({_first_line(error)}).{advice}") from error
    except (HubSpotError, GateShut) as error:
        raise fail(str(error)) from error
    finally:
        integration.engine.dispose()


def require_file(integration: Integration) -> None:
    """End the command where the database is a SQLite file that is not there: SQLite would make an empty one."""
    if (file := integration.missing_file()) is not None:
        raise fail(f"There is no database {file}; {integration.how_to_migrate}.")


@contextmanager
def _logged_from(level: int) -> Iterator[None]:
    root, verbs = logging.getLogger(), logging.getLogger(operations.__name__)
    before = root.level, verbs.level
    root.setLevel(level)
    verbs.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(before[0])
        verbs.setLevel(before[1])


def _first_line(error: DBAPIError) -> str:
    return next(iter(str(error.orig).splitlines()), type(error.orig).__name__)


def operator() -> str:
    """Who acts, as the audit names them."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):
        # A container may run as a user that has no name.
        return f"cli:{os.getuid()}"


def fail(message: str) -> typer.Exit:
    Terminal(stderr=True).print(in_one_line(message), style="red")
    return typer.Exit(1)


def print_line(text: str) -> None:
    """On stdout in its own encoding; `typer.echo` would write UTF-8 to a terminal that has another one."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def print_json(value: object) -> None:
    print_line(json.dumps(value))


def print_rows(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table in a terminal; elsewhere a line of headings and one a row, fields between tabs. Nothing without a row."""
    if not console.is_terminal:
        for number, row in enumerate(rows):
            if not number:
                print_line("\t".join(headings))
            print_line("\t".join(map(in_one_line, row)))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        # An id is there to be copied; what is last are words, which may take several lines.
        table.add_column(heading, no_wrap=heading != headings[-1], overflow="fold")
    for row in rows:
        table.add_row(*map(in_one_line, row))
    console.print(table)


def print_fields(fields: Iterable[tuple[str, str]]) -> None:
    for name, value in fields:
        console.print(f"{name:>10}  {in_one_line(value)}")


def carry_out(steps: Iterable[Done], words: str) -> int:
    """Take the steps, with a bar where somebody sees it; how many were done."""
    done = 0
    with progress_bar() as bar:
        task = bar.add_task(words, total=None)
        for step in steps:
            done = step.done
            bar.update(task, completed=done, total=step.total)
    return done


def progress_bar() -> Progress:
    """On stderr, and only in a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )


def a_while(text: str) -> timedelta:
    """`90s`, `5m`, `2h` or `30d`."""
    match = re.fullmatch(r"(\d{1,6})([smhd])", text.strip(), re.ASCII)
    if match is None:
        raise typer.BadParameter(f"{text!r} is no time like 90s, 5m, 2h or 30d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def an_instant(text: str) -> datetime:
    """`2h`, so long ago; or an ISO 8601 instant, UTC where it names no zone."""
    text = text.strip()
    try:
        if re.fullmatch(r"\d{1,6}[smhd]", text, re.ASCII):
            return datetime.now(UTC) - a_while(text)
        instant = datetime.fromisoformat(text)
        return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r} is no instant like 2026-12-01T03:00Z, nor a time ago like 2h") from None


def printable(text: str) -> str:
    """The text with an escape for all that would move a cursor, hide what follows, or fit no encoding."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def in_one_line(text: str) -> str:
    return printable(" ".join(text.split()))


def given(words: str, option: str) -> str:
    """The words, stripped; a reason that says nothing is none."""
    if not (words := words.strip()):
        raise typer.BadParameter("say why: it is kept, for those who ask.", param_hint=option)
    return words


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def moment(instant: datetime | None) -> str:
    return "" if instant is None else f"{instant.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
