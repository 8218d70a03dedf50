"""`python -m hubspot_sandbox`: the sandbox in the foreground."""

import logging
import sys
from contextlib import suppress

import typer

from hubspot_sandbox.account import Account, AccountSettings
from hubspot_sandbox.rules import AccountRules
from hubspot_sandbox.server import SandboxServer


def main(
    port: int = typer.Option(8025, help="Where it listens."),
    host: str = typer.Option("127.0.0.1", help="It asks nobody for a password: keep it on loopback."),
    seed: int | None = typer.Option(None, help="Makes ids and the order of results repeatable."),
    rate_max: int = typer.Option(190, help="Requests allowed in any ten seconds, per token."),
    daily_max: int = typer.Option(625_000, help="Requests allowed a day, for the account."),
    portal_id: int = typer.Option(12345678, help="The account's id."),
    token: list[str] = typer.Option([], help="A token to accept; repeatable. Without any, every token is accepted."),
    time_zone: str = typer.Option("US/Eastern", help="Where the account's day ends at midnight."),
    search_lag: float = typer.Option(3.0, help="Seconds until search finds a write."),
    require: list[str] = typer.Option([], help="A property that a new contact must have, from 2026-09 on; repeatable."),
    quiet: bool = typer.Option(False, "--quiet", help="Do not log requests."),
) -> None:
    """A HubSpot on your laptop: contacts, properties, limits and faults on request. Ctrl-C ends it."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stdout, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("hubspot_sandbox").setLevel(logging.WARNING if quiet else logging.INFO)
    settings = AccountSettings(
        portal_id=portal_id,
        tokens=frozenset(token),
        requests_per_ten_seconds=rate_max,
        requests_per_day=daily_max,
        time_zone=time_zone,
        seed=seed,
        search_lag_seconds=search_lag,
        rules=AccountRules(required=tuple(require)),
    )

    def announce(url: str) -> None:
        typer.echo(f"HubSpot sandbox on {url}")

    server = SandboxServer(Account(settings), host=host, port=port, on_listening=announce)
    with suppress(KeyboardInterrupt):  # uvicorn raises it again once it has stopped.
        server.run()


def run() -> None:
    """`hubspot-sandbox`."""
    typer.run(main)


if __name__ == "__main__":
    run()
