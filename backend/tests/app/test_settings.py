"""What the environment may say, and what it means when it says nothing."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from app.settings import BACKEND, Settings


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("sqlite:///nerava.db", f"sqlite:///{BACKEND}/nerava.db"),
        ("sqlite:////var/lib/nerava.db", "sqlite:////var/lib/nerava.db"),
        ("postgres://u:p%40ss@db/nerava", "postgresql+psycopg://u:p%40ss@db/nerava"),
        ("postgresql://db/nerava?sslmode=require", "postgresql+psycopg://db/nerava?sslmode=require"),
        ("postgresql+psycopg://db/nerava", "postgresql+psycopg://db/nerava"),
        ("sqlite:////var/lib/nerava.db?timeout=3", "sqlite:////var/lib/nerava.db?timeout=3"),
        ("postgresql+psycopg2://db/nerava", "postgresql+psycopg://db/nerava"),
        (
            "postgresql+asyncpg://u@db/n?ssl=true&timeout=3",
            "postgresql+psycopg://u@db/n?connect_timeout=3&sslmode=require",
        ),
        (
            "postgresql+asyncpg://db/n?prepared_statement_cache_size=0",
            "postgresql+psycopg://db/n?prepare_threshold=none",
        ),
        ("sqlite+aiosqlite:////var/lib/nerava.db", "sqlite:////var/lib/nerava.db"),
        ("postgresql://u:p@h1:1,h2/n", "postgresql+psycopg://u:p@/n?host=h1%2Ch2&port=1%2C5432"),
        (
            "postgresql://h1:1,[::1]:2/n?sslmode=require",
            "postgresql+psycopg:///n?host=h1%2C%3A%3A1&port=1%2C2&sslmode=require",
        ),
        ("postgresql://u@/n?host=h1:1&host=h2:2", "postgresql+psycopg://u@/n?host=h1%3A1&host=h2%3A2"),
    ],
)
def test_a_database_url_gets_the_driver_that_is_installed(given, meant):
    assert Settings(_env_file=None, database_url=given).database_url == meant


ODD_OPTIONS = [
    f"sqlite:///nerava.db?{odd}"
    for odd in ("mode=ro", "timeout=x", "cached_statements=1.5", "detect_types=x", "check_same_thread=2")
]


@pytest.mark.parametrize("url", ["", "nerava.db", "mysql://db/nerava", "sqlite://", "sqlite:///:memory:", *ODD_OPTIONS])
def test_a_database_that_cannot_serve_is_refused_by_name(url):
    with pytest.raises(ValidationError, match="DATABASE_URL"):
        Settings(_env_file=None, database_url=url)


def test_without_settings_the_database_is_a_file_in_backend_and_nothing_is_sent(monkeypatch):
    settings = Settings(_env_file=None)
    assert settings.database_url == f"sqlite:///{BACKEND}/nerava.db"
    assert (settings.hubspot_enabled, settings.hubspot_send_live) == (False, False)


def test_a_refused_database_url_does_not_show_its_password():
    with pytest.raises(ValidationError) as refusal:
        Settings(_env_file=None, database_url="mysql://nerava:s3cret@db/nerava")
    assert "s3cret" not in str(refusal.value)


def test_secrets_are_not_shown_with_the_settings():
    settings = Settings(_env_file=None, charger_service_key="s3cret", operator_token="s3cret")
    assert "s3cret" not in repr(settings)
