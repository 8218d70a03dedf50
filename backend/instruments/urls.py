"""A database's URL as other clients read it."""

from __future__ import annotations

from sqlalchemy import URL


def plain_url(url: URL) -> str:
    """As libpq reads it."""
    return url.set(drivername="postgresql").render_as_string(hide_password=False)
