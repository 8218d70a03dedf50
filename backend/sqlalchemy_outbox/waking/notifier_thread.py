"""A thread that notifies while there are commits, and ends when there are none for long."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from datetime import timedelta

log = logging.getLogger(__name__)

# The first commit after a pause is notified at once; a stream of them, this often.
NOTIFY_EVERY = timedelta(milliseconds=20)
# A process that stops committing gives its connection back.
IDLE_MAX = timedelta(seconds=60)
# PostgreSQL's "program limit exceeded", by which it refuses a NOTIFY.
QUEUE_IS_FULL = "54000"
_CLOSE_DEADLINE = timedelta(seconds=5)


class NotifierThread:
    """One thread at a time; whoever overrides `_run` ends it by `_resign`."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_wanted = False

    def close(self) -> None:
        """Send what is still to be sent, and end the thread and its connection; a later notify begins anew."""
        with self._condition:
            thread, self._thread = self._thread, None
            self._condition.notify()
        if thread is not None and thread is not threading.current_thread():
            thread.join(_CLOSE_DEADLINE.total_seconds())

    def _run(self) -> None:
        raise NotImplementedError

    def _start_if_needed(self) -> None:
        if self._thread is not None:
            return
        thread = threading.Thread(target=self._run, name="outbox-notifier", daemon=True)
        # Where the system gives no thread more, or Python is about to end, the poll finds the event.
        with suppress(RuntimeError):
            thread.start()
            self._thread = thread

    def _is_current(self) -> bool:
        return self._thread is threading.current_thread()

    def _resign(self) -> None:
        if self._is_current():
            self._thread = None


def say_that_polls_do_it(error: BaseException) -> None:
    """A notifier that failed costs time and nothing else."""
    log.debug("Workers of other processes find the events by their poll: %s", type(error).__name__)
