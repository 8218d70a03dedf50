"""The path of a piece of work through our code: which files and functions it enters, in which threads."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

BACKEND = Path(__file__).parents[1]
PACKAGES = ("app", "hubspot_sync", "sqlalchemy_outbox")


@dataclass(slots=True)
class Trail:
    """What was entered while the trail was open, in the order of the first time."""

    functions: dict[tuple[str, str], None] = field(default_factory=dict)
    threads: set[str] = field(default_factory=set)
    is_open: bool = False

    @property
    def files(self) -> list[str]:
        return list(dict.fromkeys(file for file, _ in self.functions))

    @contextmanager
    def opened(self) -> Iterator[None]:
        self.is_open = True
        try:
            yield
        finally:
            self.is_open = False

    def __str__(self) -> str:
        counts = f"{len(self.files)} files, {len(self.functions)} functions, {len(self.threads)} threads"
        lines = [f"{file}  {', '.join(name for at, name in self.functions if at == file)}" for file in self.files]
        return "\n".join([counts, *lines])


@contextmanager
def following() -> Iterator[Trail]:
    """Follow what is entered while the trail is open; threads that are started within the block are followed too."""
    trail = Trail()
    folders = tuple(f"{BACKEND / package}/" for package in PACKAGES)

    def note(frame: FrameType, event: str, _: Any) -> None:
        if not trail.is_open or event != "call":
            return
        code = frame.f_code
        if not code.co_filename.startswith(folders) or code.co_name.startswith("<"):
            return
        trail.functions[str(Path(code.co_filename).relative_to(BACKEND)), code.co_qualname] = None
        trail.threads.add(threading.current_thread().name.rpartition("_")[0] or threading.current_thread().name)

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield trail
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
