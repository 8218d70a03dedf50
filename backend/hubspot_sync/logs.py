"""Where an application's log goes, and how much of it; `log_lines` says what a line looks like."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from functools import cached_property

_HANDLER_NAME = "hubspot_sync"

_QUIETER = {
    # At INFO the HTTP client writes every URL, and a contact's may hold an address.
    "httpx2": logging.WARNING,
    # At INFO it introduces itself each time somebody asks for the database's revision.
    "alembic": logging.WARNING,
}


def configure_logging(*, may_name_people: Iterable[str] = ()) -> None:
    """Send every logger's records from INFO up to stderr, without addresses, phone numbers and tokens. Once.

    A terminal gets lines to read, others JSON. `may_name_people` are the loggers whose records stay as they are.
    Handlers that others have set stay, and redact nothing: give them `hubspot_sync.log_lines.formatter`.
    """
    root = logging.getLogger()
    if any(handler.name == _HANDLER_NAME for handler in root.handlers):
        return
    handler = logging.StreamHandler()
    handler.name = _HANDLER_NAME
    handler.setFormatter(_Lines(frozenset(may_name_people), is_terminal=sys.stderr.isatty()))
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    for name, level in _QUIETER.items():
        logging.getLogger(name).setLevel(level)


class _Lines(logging.Formatter):
    """Prepares itself for the first record: a command that logs nothing ends sooner than structlog is imported."""

    def __init__(self, may_name_people: frozenset[str], *, is_terminal: bool) -> None:
        super().__init__()
        self._may_name_people = may_name_people
        self._is_terminal = is_terminal

    def format(self, record: logging.LogRecord) -> str:
        return self._formatter.format(record)

    @cached_property
    def _formatter(self) -> logging.Formatter:
        from hubspot_sync.log_lines import formatter  # noqa: PLC0415  # As above.

        return formatter(is_terminal=self._is_terminal, may_name_people=self._may_name_people)
