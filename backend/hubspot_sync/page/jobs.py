"""What takes longer than a request: an operator's verb on many events, in a thread, with its progress to be seen."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from sqlalchemy_outbox.operations import Progress

log = logging.getLogger(__name__)

# Two at a time leave the application its connections; what waits begins when one ends.
RUNNING_MAX = 2
# The oldest ended ones are forgotten first; what they did stands in the audit.
KEPT_MAX = 100


class JobState(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    INTERRUPTED = "interrupted"


@dataclass(slots=True)
class Job:
    """`key` names the press of the button that began it; `words` say why it was interrupted."""

    key: str
    verb: str
    by: str
    total: int
    done: int = 0
    state: JobState = JobState.WAITING
    words: str = ""
    ended: threading.Event = field(default_factory=threading.Event)


class TooManyJobs(Exception):
    """As many jobs as are kept have not ended."""


class Jobs:
    """This process's jobs. Between two batches of events a job may be stopped; what is done stays done."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(RUNNING_MAX, thread_name_prefix="operator-job")
        self._is_stopping = threading.Event()

    def find(self, key: str) -> Job | None:
        return self._jobs.get(key)

    def start(self, job: Job, run: Callable[[], Iterator[Progress]]) -> Job:
        """Begin the job, once: a second press of the same button finds the job that the first one began."""
        with self._lock:
            if (begun := self._jobs.get(job.key)) is not None:
                return begun
            self._forget_ended()
            self._jobs[job.key] = job
        self._threads.submit(self._run, job, run).add_done_callback(partial(_note_end, job))
        return job

    def stop(self) -> None:
        """Return once no job runs."""
        self._is_stopping.set()
        self._threads.shutdown(cancel_futures=True)

    def _run(self, job: Job, run: Callable[[], Iterator[Progress]]) -> None:
        try:
            job.state = JobState.RUNNING
            for progress in run():
                job.done, job.total = progress.done, progress.total
                if self._is_stopping.is_set():
                    job.state, job.words = JobState.INTERRUPTED, "the application stopped"
                    return
        except (DBAPIError, PoolTimeout) as error:
            log.warning("The %s of %s was interrupted: %s", job.verb, job.by, str(error).partition("\n")[0])
            job.state, job.words = JobState.INTERRUPTED, "the database did not answer"
        else:
            job.state = JobState.DONE

    def _forget_ended(self) -> None:
        if len(self._jobs) < KEPT_MAX:
            return
        ended = next((job.key for job in self._jobs.values() if job.ended.is_set()), None)
        if ended is None:
            raise TooManyJobs
        del self._jobs[ended]


def _note_end(job: Job, future: Future[None]) -> None:
    if future.cancelled():
        job.state, job.words = JobState.INTERRUPTED, "the application stopped"
    elif (error := future.exception()) is not None:
        job.state, job.words = JobState.INTERRUPTED, "of an error; the application's log has it"
        log.error("The %s of %s was interrupted.", job.verb, job.by, exc_info=error)
    job.ended.set()
