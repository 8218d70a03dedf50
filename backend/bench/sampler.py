"""Where Python's time goes: the innermost frame of every busy thread, looked at again and again."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_SAMPLE_EVERY_SECONDS = 0.002
# Threads that wait for work or for the database stand in one of these.
_IDLE = {"wait", "wait_c", "select", "_worker", "_run_once", "get", "acquire", "join", "readline"}


@dataclass(slots=True)
class Profile:
    frames: Counter[str] = field(default_factory=Counter)

    def top(self, count: int = 8) -> str:
        total = sum(self.frames.values()) or 1
        return ", ".join(f"{name} {100 * n / total:.0f} %" for name, n in self.frames.most_common(count))


@contextmanager
def sample() -> Iterator[Profile]:
    """Sample all threads but the sampler during the block."""
    profile = Profile()
    is_over = threading.Event()
    sampler = threading.Thread(target=_run, args=(profile, is_over), daemon=True)
    sampler.start()
    try:
        yield profile
    finally:
        is_over.set()
        sampler.join()


def _run(profile: Profile, is_over: threading.Event) -> None:
    me = threading.get_ident()
    while not is_over.is_set():
        for thread, frame in sys._current_frames().items():
            code = frame.f_code
            if thread != me and code.co_name not in _IDLE:
                path = Path(code.co_filename)
                profile.frames[f"{path.parent.name}/{path.stem}.{code.co_name}"] += 1
        time.sleep(_SAMPLE_EVERY_SECONDS)
