"""The log: one line a fact, readable in a terminal, JSON elsewhere; fields stand beside the message, not in it."""

from __future__ import annotations

import logging
import sys

import structlog

from hubspot_sync.redaction import redact

_HANDLER_NAME = "nerava"

# Said of every record, ours and the libraries', before it is rendered.
_PROCESSORS: tuple[structlog.typing.Processor, ...] = (
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.ExtraAdder(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)
_QUIETER = {
    # At INFO the HTTP client writes every URL, and a contact's may hold an address.
    "httpx2": logging.WARNING,
    # At INFO it introduces itself each time /readyz asks for the database's revision.
    "alembic": logging.WARNING,
}
# It tells a developer's own terminal the code that it would have sent to an address.
_MAY_NAME_PEOPLE = "app.otp"


def configure_logging() -> None:
    """Send every logger's records from INFO up to stderr, once. Handlers that others have set stay."""
    root = logging.getLogger()
    if any(handler.name == _HANDLER_NAME for handler in root.handlers):
        return
    handler = logging.StreamHandler()
    handler.name = _HANDLER_NAME
    handler.setFormatter(formatter(is_terminal=sys.stderr.isatty()))
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    for name, level in _QUIETER.items():
        logging.getLogger(name).setLevel(level)


def formatter(*, is_terminal: bool) -> logging.Formatter:
    """Tracebacks show no local variables: among them are tokens and addresses."""
    renderers: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer()]
        if is_terminal
        else [
            # In this project an event is a row of the outbox.
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(),
        ]
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_PROCESSORS,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            _redact,
            *renderers,
        ],
    )


def _redact(_logger: object, _method: str, record: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Take addresses, phone numbers and tokens out of every text: what the rooms leave out by themselves, once more."""
    if record.get("logger") == _MAY_NAME_PEOPLE:
        return record
    return {name: redact(value) if isinstance(value, str) else value for name, value in record.items()}
