"""A library tells HubSpot who borrows: Flask on SQLite, with the worker in a thread of the application.

`flask --app lending:create_app run` is the application; `python lending.py provision` creates the contact properties.
"""

import os
from typing import Annotated

from flask import Flask, request
from sqlalchemy import Column, Integer, MetaData, Table, Text, insert

import hubspot_sync as hs
from sqlalchemy_outbox import define_outbox, migrations, worker_engine

READER = hs.ContactProperty("library_reader_id", "Library reader id", hs.PropertyType.STRING, is_unique=True)
BOOK = hs.ContactProperty("library_last_book", "Last book", hs.PropertyType.STRING)


class Borrowed(hs.LifecycleEvent):
    event_type = "borrowed"
    reader_id: Annotated[hs.Reference, READER]
    email: Annotated[hs.EmailAddress, hs.EMAIL]
    book: Annotated[hs.Reference, BOOK]


loans = Table("loans", MetaData(), Column("id", Integer, primary_key=True), Column("book", Text, nullable=False))
OUTBOX = define_outbox(MetaData())
CATALOG = hs.Catalog((Borrowed,), "reader_id", "email", hs.PropertyGroup("library", "Library"))
track = hs.Tracker(CATALOG, OUTBOX)
engine = worker_engine(os.environ.get("DATABASE_URL", "sqlite:///lending.db"))
app = Flask(__name__)


def load() -> hs.Integration:
    hs.configure_logging()
    return hs.Integration(hs.HubSpotSettings(), OUTBOX, CATALOG, engine, command_line="python lending.py")


def create_app() -> Flask:
    with engine.begin() as connection:
        loans.create(connection, checkfirst=True)
        migrations.migrate(connection, OUTBOX)
    hs.WorkerThread(load()).start()
    return app


@app.post("/loans")
def lend() -> str:
    with engine.begin() as connection:
        connection.execute(insert(loans).values(book=request.form["book"]))
        track(connection, "borrowed", request.form.to_dict())
    return "lent"


if __name__ == "__main__":
    hs.run_cli(load)
