"""What can be set, each with its consequence. The names of the environment are the field names in upper case."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from sqlalchemy_outbox.names import KEY_CHARS_MIN


def _fits_a_header(token: SecretStr) -> SecretStr:
    text = token.get_secret_value().strip()
    if not all("!" <= character <= "~" for character in text):
        raise ValueError("must be the token alone: letters, digits and hyphens without spaces")
    return SecretStr(text)


def _is_hard_to_guess(key: SecretStr) -> SecretStr:
    text = key.get_secret_value().strip()
    if 0 < len(text) < KEY_CHARS_MIN:
        raise ValueError(f"must have at least {KEY_CHARS_MIN} characters, such as the output of openssl rand -hex 32")
    return SecretStr(text)


class HubSpotSettings(BaseSettings):
    """The HUBSPOT_* variables. Nothing is sent unless both switches say so."""

    # A value that makes no sense may be a token.
    model_config = SettingsConfigDict(hide_input_in_errors=True)

    hubspot_enabled: bool = Field(
        default=False,
        description="Whether a worker runs. While false, events are stored and wait; nothing is lost.",
    )
    hubspot_send_live: bool = Field(
        default=False,
        description="False: a dry run, which logs what it would send and marks the events delivered. They are never "
        "sent later.",
    )
    hubspot_private_app_token: Annotated[SecretStr, AfterValidator(_fits_a_header)] = Field(
        default=SecretStr(""), description="A private app's token or a service key. Required to send live."
    )
    hubspot_portal_id: str = Field(
        default="",
        description="The account that the token must belong to; another account holds all deliveries. Required to send "
        "live.",
    )
    hubspot_worker_in_app: bool = Field(
        default=True,
        description="False where the command `worker` runs apart; then the application only stores events.",
    )
    hubspot_api_version: Annotated[str, Field(pattern=r"^(v3|\d{4}-\d{2})$")] = Field(
        default="2026-09",
        description="HubSpot's API version. From 2026-09 on, rules that an admin sets in the account are enforced.",
    )
    hubspot_base_url: str = Field(
        default="https://api.hubapi.com", description="Where HubSpot is; the sandbox or a proxy can stand in."
    )
    hubspot_batch_size: Annotated[int, Field(ge=1, le=100)] = Field(
        default=50,
        description="Events per claim. Lower: more requests for the same events. Higher: a crash repeats more.",
    )
    hubspot_requests_per_second: Annotated[float, Field(gt=0, le=100)] = Field(
        default=8.0,
        description="For all processes together. Above the account's limit HubSpot answers 429; lower, backlogs last.",
    )
    hubspot_concurrency: Annotated[int, Field(ge=1, le=32)] = Field(
        default=4,
        description="Requests in flight per process. Too low, and slow answers keep the rate from being reached.",
    )
    hubspot_daily_reserve: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.05,
        description="Share of the account's daily requests left to its other integrations. Once no more than that is "
        "left, events wait for the account's midnight. Too low, and a backlog can use up what the others need.",
    )
    hubspot_retention_days: Annotated[int, Field(ge=1, le=36_500)] = Field(
        default=30,
        description="Days that delivered events are kept, with the addresses they hold. Fewer: less to look back on; "
        "at most a hundred years.",
    )

    hubspot_personal_data_days: Annotated[int, Field(ge=0, le=36_500)] = Field(
        default=0,
        description="Days after which delivered events lose the addresses they hold, and keep that they set them. "
        "Fewer: less to look back on. 0: with the events.",
    )
    hubspot_erasure_key: Annotated[SecretStr, AfterValidator(_is_hard_to_guess)] = Field(
        default=SecretStr(""),
        description="By which a person who is forgotten is known from then on: a secret of at least 32 characters, the "
        "same for all processes, kept for good. Without it nobody can be forgotten; lost or changed, new events of "
        "those who were are sent.",
    )

    hubspot_metrics_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        default=0,
        description="Where the command `worker` shows its metrics: on this port of its own machine only, without a "
        "token. 0: nowhere, and what that worker delivers is in nobody's counters. Each worker of a machine needs "
        "its own.",
    )
    operator_token: SecretStr = Field(
        default=SecretStr(""),
        description="Opens the operator's page, and the metrics as a bearer token. Empty, or below 16 characters: both "
        "are closed.",
    )
    reader_token: SecretStr = Field(
        default=SecretStr(""),
        description="Opens the operator's page to look only, without what is personal, and `/metrics`. Empty, below 16 "
        "characters, or OPERATOR_TOKEN itself: there are no readers.",
    )

    def missing_for_live(self) -> str | None:
        """What to set before anything can be sent live, in words; None when nothing is missing."""
        if not self.hubspot_send_live:
            return None
        required = {
            "HUBSPOT_PRIVATE_APP_TOKEN": self.hubspot_private_app_token.get_secret_value(),
            "HUBSPOT_PORTAL_ID": self.hubspot_portal_id,
        }
        missing = [name for name, value in required.items() if not value.strip()]
        if not missing:
            return None
        verb = "is" if len(missing) == 1 else "are"
        return f"{' and '.join(missing)} {verb} empty; set what is empty, or HUBSPOT_SEND_LIVE=false to dry-run."
