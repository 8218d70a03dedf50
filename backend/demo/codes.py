"""One-time codes, read where a developer reads them: in the application's log."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta

from demo.errors import DemoFailed

# The application logs the code before it answers; only the pipe is in between.
READ_DEADLINE = timedelta(seconds=5)


class CodeNotLogged(DemoFailed):
    """The application answered that it sent a code, and its log has none."""


class Codes:
    """The codes that were logged, by challenge."""

    def __init__(self) -> None:
        self._logged: dict[str, asyncio.Future[str]] = {}

    def read_line(self, line: str) -> None:
        """Take note of a code; other lines are passed over."""
        if '"challenge_id"' not in line:
            return
        try:
            fields = json.loads(line)
        except ValueError:
            return
        code = self._of(fields["challenge_id"])
        if not code.done():
            code.set_result(fields["code"])

    async def wait_for(self, challenge_id: str) -> str:
        try:
            return await asyncio.wait_for(self._of(challenge_id), READ_DEADLINE.total_seconds())
        except TimeoutError:
            raise CodeNotLogged(f"The application's log has no code for challenge {challenge_id}.") from None
        finally:
            self._logged.pop(challenge_id, None)

    def _of(self, challenge_id: str) -> asyncio.Future[str]:
        return self._logged.setdefault(challenge_id, asyncio.get_running_loop().create_future())
