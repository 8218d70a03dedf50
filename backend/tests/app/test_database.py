"""The engine's connections to PostgreSQL: what bounds them unless DATABASE_URL says otherwise."""

from __future__ import annotations

import psycopg
from sqlalchemy import text

from app.database import create_database_engine


def session_of(url: str, *settings: str) -> tuple[dict[str, str], list[str]]:
    """The driver's parameters of a connection, and the server's settings for it."""
    engine = create_database_engine(url)
    with engine.connect() as connection:
        driver_connection = connection.connection.driver_connection
        assert isinstance(driver_connection, psycopg.Connection)
        found = [connection.execute(text(f"SHOW {name}")).scalar_one() for name in settings]
        parameters = driver_connection.info.get_parameters()
    engine.dispose()
    return parameters, found


def test_server_that_is_gone_is_given_up_in_seconds_and_lets_go_of_a_client_that_is(postgres_url: str) -> None:
    parameters, (idle_timeout, lock_timeout) = session_of(
        postgres_url, "idle_in_transaction_session_timeout", "lock_timeout"
    )
    assert (parameters["connect_timeout"], parameters["tcp_user_timeout"], parameters["keepalives_idle"]) == (
        "5",
        "10000",
        "5",
    )
    assert (idle_timeout, lock_timeout) == ("10s", "5s")


def test_what_the_database_url_says_of_its_connections_stands(postgres_url: str) -> None:
    query = "tcp_user_timeout=70000&connect_timeout=9&options=-c%20lock_timeout%3D7s"
    parameters, (idle_timeout, lock_timeout) = session_of(
        f"{postgres_url}?{query}", "idle_in_transaction_session_timeout", "lock_timeout"
    )
    assert (parameters["connect_timeout"], parameters["tcp_user_timeout"]) == ("9", "70000")
    assert (idle_timeout, lock_timeout) == ("10s", "7s")


def test_statements_are_prepared_as_the_database_url_says(postgres_url: str) -> None:
    for threshold, count in (("0", 1), ("none", 0)):
        engine = create_database_engine(f"{postgres_url}?prepare_threshold={threshold}")
        with engine.connect() as connection:
            for _ in range(9):
                connection.execute(text("SELECT 1"))
            prepared = text("SELECT count(*) FROM pg_prepared_statements WHERE statement = 'SELECT 1'")
            assert connection.execute(prepared).scalar_one() == count
        engine.dispose()
