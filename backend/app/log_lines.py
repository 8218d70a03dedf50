"""A line of the log: one fact, readable in a terminal, JSON elsewhere; fields stand beside the message, not in it."""

from __future__ import annotations

import logging

import structlog

from hubspot_sync.redaction import redact

# Said of every record, ours and the libraries', before it is rendered.
_PROCESSORS: tuple[structlog.typing.Processor, ...] = (
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.ExtraAdder(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)
# It tells a developer's own terminal the code that it would have sent to an address.
_MAY_NAME_PEOPLE = "app.otp"


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
