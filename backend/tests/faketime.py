"""Clocks of other processes that a test may move, by libfaketime: wall clocks alone, as they jump on real machines."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.conftest import missing_tool


class FakeClock:
    """What processes that were started with `environment` take for the time."""

    def __init__(self, library: Path, folder: Path) -> None:
        self._file = folder / "offset"
        self._by = timedelta(0)
        self.jump(timedelta(0))
        self.environment: Mapping[str, str] = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            # Each look at the clock reads the file.
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    def jump(self, by: timedelta) -> None:
        """From now on it shows so much more; less, where that is negative."""
        self._by += by
        # In one step: nobody may read half a number.
        new = self._file.with_suffix(".new")
        new.write_text(f"{self._by.total_seconds():+.0f}\n")
        new.chmod(0o644)
        os.replace(new, self._file)


@contextmanager
def fake_clock() -> Iterator[FakeClock]:
    """Needs Debian's package libfaketime."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if library is None:
        missing_tool("libfaketime is missing; `apt-get install libfaketime` installs it")
    assert library is not None
    with TemporaryDirectory(prefix="outbox-clock-") as folder:
        # The server runs as another user.
        Path(folder).chmod(0o755)
        yield FakeClock(library, Path(folder))
