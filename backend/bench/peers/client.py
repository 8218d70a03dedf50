"""Our end of a peer's process."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

_BACKEND = Path(__file__).parents[2]
_PYTHON = _BACKEND.parent / ".venv-bench" / "bin" / "python"
NAMES = ("procrastinate", "pgqueuer", "faststream-outbox")
_VERSIONS = f"from importlib.metadata import version as v; import json; print(json.dumps({{n: v(n) for n in {NAMES}}}))"


class PeersMissing(Exception):
    """The peers are not installed; run `make bench`, which builds their environment."""


class PeerFailed(Exception):
    """A peer's process ended instead of answering; its error is above."""


@dataclass(frozen=True, slots=True)
class Peer:
    process: subprocess.Popen[str]

    @classmethod
    @contextmanager
    def start(cls, module: str, url: str) -> Iterator[Peer]:
        """Run a peer on the database of `url`, and end it with the block."""
        if not _PYTHON.exists():
            raise PeersMissing(PeersMissing.__doc__)
        plain_url = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        process = subprocess.Popen(
            [_PYTHON, "-m", f"bench.peers.{module}", plain_url],
            cwd=_BACKEND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            yield cls(process)
        finally:
            process.kill()
            process.communicate()

    def ask(self, do: str, **arguments: object) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise PeerFailed(PeerFailed.__doc__)
        answer: dict[str, Any] = json.loads(line)
        return answer


def peer_versions() -> dict[str, str]:
    if not _PYTHON.exists():
        return {}
    versions: dict[str, str] = json.loads(subprocess.check_output([_PYTHON, "-c", _VERSIONS], text=True))
    return versions
