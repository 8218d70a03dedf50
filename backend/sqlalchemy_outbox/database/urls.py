"""A database URL as people write it, checked before anything is opened, and never quoted: it may hold a password."""

from __future__ import annotations

from pathlib import Path
from warnings import catch_warnings, simplefilter

from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, SAWarning

from sqlalchemy_outbox.database.engines import parse_url, sync_url

_DIALECTS = ("sqlite", "postgres", "postgresql")


def checked_url(text: str, *, name: str = "DATABASE_URL", folder: Path | None = None) -> str:
    """The same database by the driver that workers use, psycopg or sqlite3; `postgres://` and async drivers are taken.

    A relative SQLite file is anchored at `folder`. Raises ValueError, whose words begin with `name`, the setting, and
    hold nothing of the URL: for what is no URL, another database, a database in memory, and options that make no sense.
    """
    try:
        url = parse_url(text)
    except (ArgumentError, ValueError):
        # Their words quote what stands where a port belongs: the end of a password that has an @ or a / in it.
        raise ValueError(f"{name} is no database URL; write sqlite:///FILE or postgresql://…") from None
    if url.drivername.partition("+")[0] not in _DIALECTS:
        raise ValueError(f"{name} names another database; sqlite:// and postgresql:// are served")
    url = sync_url(url)
    if url.drivername != "sqlite" and text.count("@") > 1:
        raise ValueError(f"{name} has more than one @; write that of a password as %40, and its / as %2F")
    if url.drivername == "sqlite":
        if url.database in (None, "", ":memory:"):
            raise ValueError(f"{name} names no SQLite file; events must outlive the process")
        url = url.set(database=str((folder or Path()) / url.database))
    _refuse_odd_options(url, name)
    return url.render_as_string(hide_password=False)


def _refuse_odd_options(url: URL, name: str) -> None:
    """What follows the question mark is, for SQLite, read by SQLAlchemy.

    Of what it does not know, 2.1 warns; 2.0 leaves it out.
    """
    refusal = f"{name} has an option after its ? that does not exist or makes no sense"
    with catch_warnings():
        simplefilter("error", SAWarning)
        try:
            _, options = url.get_dialect()().create_connect_args(url)
        except (ArgumentError, SAWarning, TypeError, ValueError):
            raise ValueError(refusal) from None
    if "uri" not in url.query and not url.query.keys() <= options.keys():
        raise ValueError(refusal)
