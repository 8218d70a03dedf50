"""A line of the log: one fact, readable in a terminal, JSON elsewhere; fields stand beside the message, not in it."""

from __future__ import annotations

import logging
from collections.abc import Set as AbstractSet

import structlog

from hubspot_sync.redaction import redact

# Said of every record, the application's and the libraries', before it is rendered.
_PROCESSORS: tuple[structlog.typing.Processor, ...] = (
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.ExtraAdder(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)


def formatter(*, is_terminal: bool = False, may_name_people: AbstractSet[str] = frozenset()) -> logging.Formatter:
    """A formatter for any handler. What it writes holds no address, phone number or token, tracebacks included.

    `may_name_people` are loggers whose records stay as they are. Tracebacks show no local variables: among them are
    tokens and addresses.
    """
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
            _Redaction(may_name_people),
            *renderers,
        ],
    )


class _Redaction:
    """Takes addresses, phone numbers and tokens out of every text; the rooms leave them out by themselves as well."""

    def __init__(self, may_name_people: AbstractSet[str]) -> None:
        self._may_name_people = may_name_people

    def __call__(self, _logger: object, _method: str, record: structlog.typing.EventDict) -> structlog.typing.EventDict:
        if record.get("logger") in self._may_name_people:
            return record
        return {name: redact(value) if isinstance(value, str) else value for name, value in record.items()}
