"""What can be set for Nerava; HubSpot's part is in `hubspot_sync.settings`."""

from __future__ import annotations

from pathlib import Path
from warnings import catch_warnings, simplefilter

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, SAWarning

from hubspot_sync.settings import HubSpotSettings
from sqlalchemy_outbox.database.engines import parse_url, sync_url
from sqlalchemy_outbox.database.pooler import Pooler

BACKEND = Path(__file__).resolve().parent.parent
# Where the application mounts the operator's page.
OPERATOR_PAGE = "/ops/hubspot"

_DIALECTS = ("sqlite", "postgres", "postgresql")


class Settings(HubSpotSettings):
    """Read from the environment, and from `.env` at the top of the checkout where there is one."""

    # Inputs are hidden in errors, because they hold passwords and tokens.
    model_config = SettingsConfigDict(env_file=BACKEND.parent / ".env", extra="ignore", hide_input_in_errors=True)

    database_url: str = Field(
        default="sqlite:///nerava.db",
        validate_default=True,
        # It may hold a password.
        repr=False,
        description="sqlite:///FILE serves one machine; a relative FILE lies in backend/. "
        "Several machines need postgresql://USER:PASSWORD@HOST/NAME.",
    )
    database_pooler: Pooler = Field(
        default=Pooler.AUTO,
        description="What lies before PostgreSQL: auto finds PgBouncer and its like out. transaction: a pooler that is "
        "not found out. none: none, or one in session mode.",
    )
    database_listen_url: str = Field(
        default="",
        repr=False,
        description="A URL of the same database that leads past its pooler, by which workers hear of commits. Empty: "
        "behind a pooler they poll, every 10 s.",
    )
    charger_service_key: SecretStr = Field(
        default=SecretStr(""),
        description="What chargers send as X-Service-Key to grant Nova. Empty: every grant is refused.",
    )
    operator_token: SecretStr = Field(
        default=SecretStr(""),
        description="Opens the operator's page at /ops/hubspot, and `/metrics` as a bearer token. Empty, or below 16 "
        "characters: both are closed.",
    )
    reader_token: SecretStr = Field(
        default=SecretStr(""),
        description="Opens the operator's page to look only, without what is personal, and `/metrics`. Empty, below 16 "
        "characters, or OPERATOR_TOKEN itself: there are no readers.",
    )
    release: str = Field(
        default="",
        max_length=60,
        description="What you deploy, a commit or a tag, as the operator's page and `workers` name it. Empty: a deploy "
        "is not seen there.",
    )

    @field_validator("database_url")
    @classmethod
    def _normalise_database_url(cls, text: str) -> str:
        return normalise_database_url(text)

    @field_validator("database_listen_url")
    @classmethod
    def _normalise_listen_url(cls, text: str) -> str:
        return text and normalise_database_url(text, "DATABASE_LISTEN_URL")


def normalise_database_url(text: str, name: str = "DATABASE_URL") -> str:
    """The URL with the driver that Nerava uses, and a relative SQLite file anchored at `backend/`."""
    try:
        url = parse_url(text)
    except (ArgumentError, ValueError):
        # Their words quote what stands where a port belongs: the end of a password that has an @ or a / in it.
        raise ValueError(f"{name} is no database URL; write sqlite:///nerava.db or postgresql://…") from None
    if url.drivername.partition("+")[0] not in _DIALECTS:
        raise ValueError(f"{name} names another database; Nerava runs on sqlite:// and postgresql://")
    url = sync_url(url)
    if url.drivername != "sqlite" and text.count("@") > 1:
        raise ValueError(f"{name} has more than one @; write that of a password as %40, and its / as %2F")
    if url.drivername == "sqlite":
        if url.database in (None, "", ":memory:"):
            raise ValueError(f"{name} names no SQLite file; events must outlive the process")
        url = url.set(database=str(BACKEND / url.database))
    _refuse_odd_options(url, name)
    return url.render_as_string(hide_password=False)


def _refuse_odd_options(url: URL, name: str) -> None:
    """What follows the question mark is, for SQLite, read by SQLAlchemy, which only warns of what it does not know."""
    with catch_warnings():
        simplefilter("error", SAWarning)
        try:
            url.get_dialect()().create_connect_args(url)
        except (ArgumentError, SAWarning, TypeError, ValueError):
            raise ValueError(f"{name} has an option after its ? that does not exist or makes no sense") from None
