"""A club's list of members becomes contacts: a script, Core only. `python members.py import members.csv`."""

import asyncio
import csv
import os
from pathlib import Path
from typing import Annotated

from sqlalchemy import Column, MetaData, Table, Text, insert

import hubspot_sync as hs
from sqlalchemy_outbox import define_outbox, worker_engine

MEMBER = hs.ContactProperty("club_member_id", "Club member id", hs.PropertyType.STRING, is_unique=True)


class Joined(hs.LifecycleEvent):
    event_type = "joined"
    member_id: Annotated[hs.Reference, MEMBER]
    email: Annotated[hs.EmailAddress, hs.EMAIL]


metadata = MetaData()
members = Table("members", metadata, Column("member_id", Text, primary_key=True), Column("email", Text))
OUTBOX = define_outbox(metadata)
CATALOG = hs.Catalog((Joined,), "member_id", "email", hs.PropertyGroup("club", "Club"))
track = hs.Tracker(CATALOG, OUTBOX)
engine = worker_engine(os.environ.get("DATABASE_URL", "sqlite:///members.db"))


def load() -> hs.Integration:
    hs.configure_logging()
    metadata.create_all(engine)
    return hs.Integration(hs.HubSpotSettings(), OUTBOX, CATALOG, engine, command_line="python members.py")


cli = hs.create_cli(load)


@cli.command("import")
def import_members(path: Path) -> None:
    integration = load()
    with path.open(newline="") as file, engine.begin() as connection:
        for row in csv.DictReader(file):
            connection.execute(insert(members), row)
            track(connection, "joined", row)
    asyncio.run(hs.deliver_due(integration))


if __name__ == "__main__":
    cli()
