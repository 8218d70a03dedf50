"""What can be set for Nerava; HubSpot's part is in `hubspot_sync.settings`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from hubspot_sync import HubSpotSettings
from sqlalchemy_outbox import Pooler, checked_url

BACKEND = Path(__file__).resolve().parent.parent
# Where the application mounts the operator's page.
OPERATOR_PAGE = "/ops/hubspot"


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
    return checked_url(text, name=name, folder=BACKEND)
