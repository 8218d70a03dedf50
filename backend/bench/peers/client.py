"""Our end of a peer's process."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import make_url

from bench.process import BACKEND, Process

_PYTHON = BACKEND.parent / ".venv-bench" / "bin" / "python"
NAMES = ("procrastinate", "pgqueuer", "faststream-outbox", "txoutbox")
_VERSIONS = f"from importlib.metadata import version as v; import json; print(json.dumps({{n: v(n) for n in {NAMES}}}))"


class PeersMissing(Exception):
    """The peers are not installed; run `make bench`, which builds their environment."""


@dataclass(frozen=True, slots=True)
class Peer:
    process: Process

    @classmethod
    @contextmanager
    def start(cls, module: str, url: str) -> Iterator[Peer]:
        """Run a peer on the database of `url`, and end it with the block."""
        if not _PYTHON.exists():
            raise PeersMissing(PeersMissing.__doc__)
        plain_url = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        with Process.start(f"peers.{module}", plain_url, python=_PYTHON) as process:
            yield cls(process)

    def ask(self, do: str, **arguments: object) -> dict[str, Any]:
        return self.process.ask_for(do, **arguments)


def peer_versions() -> dict[str, str]:
    if not _PYTHON.exists():
        return {}
    versions: dict[str, str] = json.loads(subprocess.check_output([_PYTHON, "-c", _VERSIONS], text=True))
    return versions
