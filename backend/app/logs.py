"""Nerava's log, without addresses and tokens, but for the one line that is there to show a code."""

from __future__ import annotations

from hubspot_sync import configure_logging

# It tells a developer's own terminal the code that it would have sent to an address.
MAY_NAME_PEOPLE = frozenset({"app.otp"})


def configure_nerava_logging() -> None:
    configure_logging(may_name_people=MAY_NAME_PEOPLE)
