"""The tests bite: each of these faults, planted into a copy of the outbox, is found by the state machine or a test.

A fault whose text is no longer found fails too, so that the list cannot grow old unnoticed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

BACKEND = Path(__file__).parents[2]

# `make soak LONG=1` says so.
LONG = "PROPERTY_FACTOR" in os.environ
ONE_BEHAVIOUR = ("tests/outbox/test_one_behaviour.py",)


@dataclass(frozen=True)
class Fault:
    file: str
    right: str
    wrong: str
    # A second place, where one alone would be made good by another.
    also: tuple[str, str] | None = None
    # What finds it, as pytest's arguments.
    found_by: tuple[str, ...] = ONE_BEHAVIOUR


SESSION_FORMS = ("tests/outbox/test_session_forms.py",)
PROGRAMS = ("tests/outbox/test_every_program.py", "-k", "sync and not async")


CLOCKS = "tests/outbox/test_clocks.py"
SLOTS = "tests/outbox/test_slots.py"
OVERTAKEN = ("tests/hubspot/test_overtaken.py",)
ERASING = ("tests/outbox/test_erasing.py",)
FORGETTING = ("tests/outbox/test_forgetting.py",)
NEVER_BACKWARDS = ("tests/hubspot/test_never_backwards.py",)

FAULTS = {
    "the fence is dropped": Fault(
        "settling/leases.py",
        "        .where(c.claim_token == token)\n",
        "",
        also=("    if at is None:\n        return NOTHING_ENDED\n", ""),
    ),
    "a claim is made without a lease": Fault(
        "claiming/claims.py", "    connection.execute(_begin_lease(outbox), parameters)\n", ""
    ),
    "what was handed back keeps its lease": Fault(
        "settling/leases.py",
        "    ending = _end_lease(outbox).returning(outbox.leases.c.event_ids)\n",
        "    ending = select(outbox.leases.c.event_ids).where(outbox.leases.c.token == _TOKEN)\n",
    ),
    "the subject rule is dropped": Fault(
        "claiming/candidates.py",
        "            ~_has_earlier(outbox, events),\n",
        "",
        also=(
            ".where(outbox.is_in_line(events), events.c.id > unknown_when_planned(",
            ".where(_is_due(events, dialect_name), outbox.is_in_line(events), events.c.id > unknown_when_planned(",
        ),
    ),
    "an event that backs off is taken with those before it": Fault(
        "claiming/candidates.py",
        "            runs.c.unbroken == ONE,\n            or_(runs.c.id == runs.c.head_id, is_follower_taken),\n",
        "",
    ),
    "a charged event takes others along": Fault("claiming/candidates.py", ".where(travels_now, *_in", ".where(*_in"),
    "what was set apart is not waited for": Fault(
        "claiming/candidates.py",
        "            ~_has_earlier_below_first_open(outbox, events),\n",
        "",
        found_by=("tests/outbox/test_waits.py",),
    ),
    "what is set apart is passed over by those behind it": Fault(
        "claiming/candidates.py", "heads.c.apart.is_(None)", "heads.c.apart.is_not(1)"
    ),
    "a waiting event loses its mark": Fault(
        "settling/leases.py",
        "waits_for=case((state == State.PENDING.value, waits_for), else_=null()),",
        "waits_for=null(),",
    ),
    "a retried event does not wait for a younger claimed one": Fault(
        "claiming/candidates.py",
        "            or_(c.retried_at.is_(None), ~has_claimed.correlate(events).exists()),\n",
        "",
    ),
    "claimed events are claimed again": Fault(
        "claiming/candidates.py",
        "return and_(c.claim_token.is_(None), is_time, is_known)",
        "return and_(is_time, is_known)",
    ),
    "backoff is not waited for": Fault(
        "claiming/candidates.py",
        "c.claim_token.is_(None), is_time, is_known",
        "c.claim_token.is_(None), is_known",
    ),
    "events that a retry needs are purged": Fault("housekeeping/purge.py", ", *_is_needed_no_more(self._outbox)", ""),
    "an event that has not failed is discarded": Fault(
        "operating/selection.py", "return [is_failed, is_of(selection,", "return [is_of(selection,"
    ),
    "a discarded event is not kept": Fault(
        "operating/moves.py", "    connection.execute(insert(discarded).from_select(columns, kept))\n", ""
    ),
    "a discarded event stays as well": Fault(
        "operating/moves.py", "    connection.execute(delete(events).where(events.c.id.in_(ids)))\n", ""
    ),
    "a discard takes its subject's other events along": Fault(
        "operating/moves.py",
        "    connection.execute(delete(events).where(events.c.id.in_(ids)))\n",
        "    subjects = select(events.c.subject).where(events.c.id.in_(ids))\n"
        "    connection.execute(delete(events).where(events.c.subject.in_(subjects)))\n",
    ),
    "a throttle is charged": Fault(
        "settling/settlement.py",
        "            return _hand_back(event, reason, wait)",
        '            return _charge(event, "", random)',
    ),
    "every merged event is charged": Fault(
        "settling/settlement.py", "            charged.add(event.subject)\n", "            pass\n"
    ),
    "four attempts are made": Fault(
        "settling/settlement.py", "if attempts >= ATTEMPTS_MAX", "if attempts > ATTEMPTS_MAX"
    ),
    "a rolled back event is kept": Fault(
        "enqueueing/sessions.py", "    elif level.is_committed:\n", "    elif True:\n"
    ),
    "the claim exceeds its limit": Fault(
        "claiming/candidates.py",
        '        .limit(limited)\n        .cte("batch")',
        '        .cte("batch")',
    ),
    "a slot that lies a day ahead is waited for": Fault(
        "gate/row.py", "and_(last > DatabaseNow(), ~_is_incredible(outbox))", "last > DatabaseNow()", found_by=(SLOTS,)
    ),
    "slots are taken however far ahead": Fault(
        "gate/row.py",
        "    return or_(is_near, _is_incredible(outbox))\n",
        "    return is_near.is_not(None)\n",
        found_by=(SLOTS,),
    ),
    "late slots are used": Fault(
        "gate/gate.py",
        "return _Missed.LATE if is_late and not permit.is_probe else permit",
        "return permit",
        found_by=(SLOTS,),
    ),
    "an event of the future waits for its time": Fault(
        "claiming/candidates.py",
        "or_(c.available_at <= DatabaseNow(), c.available_at <= c.created_at)",
        "c.available_at <= DatabaseNow()",
        found_by=(CLOCKS,),
    ),
    "a lease lasts as long as a wrong clock has said": Fault(
        "housekeeping/corrections.py", "    if tokens:\n", "    if not tokens:\n", found_by=(CLOCKS,)
    ),
    "a jump ahead is charged": Fault(
        "housekeeping/sweep.py", "return by_database - by_machine > _JUMP_MIN", "return False", found_by=(CLOCKS,)
    ),
    "an event stays pushed back as far as a wrong clock has said": Fault(
        "housekeeping/corrections.py", "    if ids:\n", "    if not ids:\n", found_by=(CLOCKS,)
    ),
    "a gate stays shut as long as a wrong clock has said": Fault(
        "housekeeping/corrections.py",
        "g.until_set_at > DatabaseNow())",
        "g.until_set_at.is_(None))",
        found_by=(CLOCKS,),
    ),
    "what waits is hidden by a clock that ran ahead": Fault(
        "housekeeping/backlog.py", "round(abs(seconds), 3)", "round(max(0.0, -seconds), 3)", found_by=(CLOCKS,)
    ),
    "events of a savepoint that the commit finds open are dropped": Fault(
        "enqueueing/sessions.py",
        "    elif level.is_committed:\n",
        "    elif level.is_committed and not next(iter(levels.values())).is_committing:\n",
        found_by=SESSION_FORMS,
    ),
    "what a listener of before_commit tracks is written too late": Fault(
        "enqueueing/sessions.py",
        "    if is_active and outermost.is_committing:\n",
        "    if False:\n",
        found_by=SESSION_FORMS,
    ),
    "an event is taken after prepare": Fault(
        "enqueueing/commits.py",
        "isinstance(transaction, TwoPhaseTransaction) and transaction._is_prepared",
        "False",
        found_by=SESSION_FORMS,
    ),
    "an event is taken after the commit": Fault(
        "enqueueing/commits.py",
        "        raise TypeError(COMMITTED)\n",
        "        return\n",
        found_by=SESSION_FORMS,
    ),
    "a connection's event stays with the pooled connection": Fault(
        "enqueueing/enqueue.py",
        "    commits.append(connection, entry)\n",
        '    connection.info["outbox"] = entry\n',
        found_by=PROGRAMS,
    ),
    "events go where readers go": Fault(
        "enqueueing/sessions.py",
        "session._flushing = session._flushing, True",
        "session._flushing = session._flushing, session._flushing",
        also=("    return update(outbox.events)\n", "    return outbox.events  # type: ignore[return-value]\n"),
        found_by=PROGRAMS,
    ),
    "an event is taken in autocommit": Fault(
        "database/isolation.py",
        "    if level.upper() == _AUTOCOMMIT:\n        return True\n",
        "    if level.upper() == _AUTOCOMMIT:\n        return False\n",
        found_by=PROGRAMS,
    ),
    "a savepoint of a connection keeps its events when it is rolled back": Fault(
        "enqueueing/commits.py",
        "    if was_active and (buffer",
        "    if False and (buffer",
        found_by=PROGRAMS,
    ),
    "events are written whatever savepoints a session has joined": Fault(
        "enqueueing/commits.py",
        "        savepoint = savepoint._previous_nested\n",
        "        savepoint = None\n",
        found_by=PROGRAMS,
    ),
    "a serialization failure loses the event": Fault(
        "enqueueing/commits.py",
        "        if has_rolled_back(error):\n",
        "        if False:\n",
        found_by=SESSION_FORMS,
    ),
    "an event is called lost before its transaction has committed": Fault(
        "enqueueing/commits.py",
        "            buffer.unwritten += [(row, reason) for row in rows]\n",
        "            for row in rows:\n"
        "                record_loss(row.event_id, row.event_type, row.subject, reason, COMMITTED_WITHOUT)\n",
        found_by=SESSION_FORMS,
    ),
    "newer events are read no further than their first page": Fault(
        "destination.py", "            if len(page) < PAGE_SIZE:\n", "            if page:\n", found_by=OVERTAKEN
    ),
    "a newer event that cannot be read is passed by": Fault(
        "../hubspot_sync/overtaken.py",
        "                raise Unreadable(newer.event) from None\n",
        "                return {}\n",
        found_by=NEVER_BACKWARDS,
    ),
    "what was sent under a lost lease is not in doubt": Fault(
        "settling/settlement.py",
        'stopped answering", is_in_doubt=True)',
        'stopped answering")',
        found_by=NEVER_BACKWARDS,
    ),
    "a discarded event of somebody forgotten is forgotten itself": Fault(
        "erasure/erasures.py",
        "    connection.execute(delete(outbox.records.discarded).where(d.id.in_([it.id for it in discarded])))\n",
        "",
        found_by=ERASING,
    ),
    "an event of somebody forgotten is retried": Fault(
        "operating/selection.py",
        "    is_failed = outbox.is_failure()\n",
        "    is_failed = outbox.events.c.failed_at.is_not(None)\n",
        found_by=ERASING,
    ),
    "a worker sends what old code has stored of somebody forgotten": Fault(
        "erasure/forgotten.py",
        "        return {id_: name for id_, name in seem.items() if name in found}\n",
        "        return {}\n",
        found_by=ERASING,
    ),
    "an erasure waits for nobody who is writing": Fault(
        "erasure/erasing.py",
        "        if not await self._writers_are_over():\n            return False\n",
        "",
        found_by=ERASING,
    ),
    "words about others name somebody forgotten": Fault(
        "erasure/erasing.py",
        "        while not scan.is_over:\n",
        "        while False:\n",
        found_by=ERASING,
    ),
    "an erasure's own event keeps whom it is about": Fault(
        "erasure/erasures.py", '.values(subject=name, payload="{}"))\n', '.values(payload="{}"))\n', found_by=ERASING
    ),
    "a commit stores what is tracked of somebody forgotten": Fault(
        "enqueueing/insertion.py",
        "    is_forgotten = select(outbox.erasures.c.id).where(outbox.erasures.c.name == name).exists()\n",
        "    is_forgotten = select(outbox.erasures.c.id).where(outbox.erasures.c.name == name + '.').exists()\n",
        found_by=FORGETTING,
    ),
    "an erasure that cannot be written lets its transaction go on": Fault(
        "enqueueing/commits.py",
        "        if reason is not None and marked:\n            raise NotForgotten(reason)\n",
        "",
        found_by=FORGETTING,
    ),
    "a run that was lost once goes apart": Fault(
        "claiming/candidates.py", "heads.c.attempt_count == ONE, heads.c", "heads.c.attempt_count == _ZERO, heads.c"
    ),
}


def run_tests(backend: Path, tests: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", *tests]
    # Found is enough: the smallest example of it would take minutes more.
    environment = os.environ | {"STATE_MACHINE_EXAMPLES": "400", "PROGRAM_EXAMPLES": "1000"}
    return subprocess.run(command, cwd=backend, env=environment, capture_output=True, text=True, timeout=300)


# Those that the outbox's own state machine finds take some minutes, all of them half an hour.
PLANTED = [name for name, fault in FAULTS.items() if LONG or fault.found_by == ONE_BEHAVIOUR]


@pytest.mark.parametrize("name", PLANTED)
def test_planted_fault_is_found(name: str, tmp_path: Path) -> None:
    fault = FAULTS[name]
    backend = tmp_path / "backend"
    ignore = shutil.ignore_patterns("__pycache__", "*.db*", ".hypothesis", ".*_cache")
    shutil.copytree(BACKEND, backend, ignore=ignore)
    source = backend / "sqlalchemy_outbox" / fault.file
    text = source.read_text()
    for right, wrong in [(fault.right, fault.wrong), *([fault.also] if fault.also else [])]:
        assert text.count(right) == 1, f"{fault.file} has {text.count(right)} places that read: {right}"
        text = text.replace(right, wrong)
    source.write_text(text)
    result = run_tests(backend, fault.found_by)
    assert result.returncode == 1, result.stdout[-3000:]
    assert "FAILED" in result.stdout
