"""Servers that fork, as gunicorn with preload and Celery do: a child forgets the parent's pool and has its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psycopg
from sqlalchemy import make_url

from bench.raw import plain_url

PROGRAM = """
import os, sys
from sqlalchemy import create_engine
from tests.outbox.conftest import OUTBOX
from tests.outbox.queue import Queue

engine = create_engine(sys.argv[1])
Queue(engine, OUTBOX).put("parent")
children = []
for name in ("first", "second"):
    if (child := os.fork()) == 0:
        # As gunicorn's post_fork and Celery's worker_process_init are to do.
        engine.dispose(close=False)
        Queue(engine, OUTBOX).put(name)
        engine.dispose()
        os._exit(0)
    children.append(child)
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
Queue(engine, OUTBOX).put("parent again")
engine.dispose()
sys.exit(max(codes))
"""


def test_parent_and_children_commit_and_wake_others_once_each_child_has_forgotten_the_pool(
    outbox_postgres_url: str,
) -> None:
    backend = Path(__file__).parents[2]
    with psycopg.connect(plain_url(make_url(outbox_postgres_url)), autocommit=True) as listening:
        listening.execute("LISTEN outbox_events")
        subprocess.run([sys.executable, "-W", "ignore", "-c", PROGRAM, outbox_postgres_url], cwd=backend, check=True)
        stored = {row[0] for row in listening.execute("SELECT subject FROM outbox_events").fetchall()}
        senders = {notification.pid for notification in listening.notifies(timeout=5, stop_after=4)}
    assert stored == {"parent", "first", "second", "parent again"}
    # The parent notifies by the connection that it had before it forked.
    assert len(senders) == 3
