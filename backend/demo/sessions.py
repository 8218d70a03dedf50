"""A CSV export of real charging sessions as a script.

Used columns: sessionId, userId, ended, kwhTotal, platform, locationId; others are passed over. What the rules are:

- Times carry no zone and are taken as UTC. Years below 100 are years of this century: 0014 is 2014.
- Drivers are numbered in the order in which they first appear; every third signs up by phone and has no email.
- platform ios installs an Apple pass, android a Google pass, web none; a driver's first session says which.
- A session with energy is granted; one of 0 kWh is not, and one below 0.05 kWh earns 0 Nova and raises no event.
- A driver's sessions are played in the order of their ends. Whenever the balance reaches 200 Nova (20 kWh), 200 are
  redeemed at the café of the session's location, again until less is left.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path

from demo.errors import DemoFailed
from demo.script import Action, Charge, InstallPass, Part, Redeem, Script, SignUp, driver

REDEEM_AT = 200
COLUMNS = ("sessionId", "userId", "ended", "kwhTotal", "platform", "locationId")

_PASS_TYPES = {"ios": "apple", "android": "google", "web": None}
_ENERGY_KWH_MAX = Decimal(1000)
_OBJECTIONS_SHOWN = 10


class UnreadableSessions(DemoFailed):
    """The file is no export of charging sessions; each line of the message names a place and what is wrong there."""


@dataclass(frozen=True, slots=True)
class Session:
    session_id: str
    user_id: str
    ended_at: datetime
    energy_kwh: Decimal
    pass_type: str | None
    location_id: str


def read_sessions(path: Path) -> list[Session]:
    """All sessions of the file, in its order, or UnreadableSessions with what is wrong."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return _parse(csv.DictReader(file, strict=True), path.name)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UnreadableSessions(f"{path}: {error}") from error


def write_script(sessions: Iterable[Session], title: str) -> Script:
    """Everybody signs up and installs their pass; then the sessions begin."""
    by_user: dict[str, list[Session]] = {}
    for session in sessions:
        by_user.setdefault(session.user_id, []).append(session)
    numbered = [(driver(number), its_sessions) for number, its_sessions in enumerate(by_user.values(), 1)]
    arrivals = tuple(Part(who, tuple(_arrive(its_sessions[0]))) for who, its_sessions in numbered)
    charging = [Part(who, tuple(_charge_and_redeem(its_sessions))) for who, its_sessions in numbered]
    # The busiest come last: until a killed worker's lease ends, drivers whose events it had claimed are held up, and
    # those are then ones with little to deliver.
    return Script(title, (arrivals, tuple(sorted(charging, key=lambda part: len(part.actions)))))


def _arrive(first_session: Session) -> Iterator[Action]:
    yield SignUp()
    if first_session.pass_type is not None:
        yield InstallPass(first_session.pass_type)


def _charge_and_redeem(sessions: list[Session]) -> Iterator[Action]:
    balance = 0
    for session in sorted(sessions, key=lambda it: (it.ended_at, it.session_id)):
        if not session.energy_kwh:
            continue
        charge = Charge(session.session_id, session.energy_kwh, session.ended_at)
        yield charge
        balance += charge.nova
        for number in range(1, balance // REDEEM_AT + 1):
            yield Redeem(f"{session.session_id}-{number}", f"cafe-{session.location_id}", REDEEM_AT)
        balance %= REDEEM_AT


def _parse(rows: csv.DictReader[str], name: str) -> list[Session]:
    if missing := [it for it in COLUMNS if it not in (rows.fieldnames or ())]:
        raise UnreadableSessions(f"{name}, line 1: the header lacks {', '.join(missing)}")
    sessions: list[Session] = []
    objections: list[str] = []
    lines: dict[str, int] = {}
    for row in rows:
        try:
            session = _session(row)
            _check_is_new(session, lines, rows.line_num)
        except _BadValue as bad:
            objections.append(f"{name}, line {rows.line_num}, column {bad.column}: {bad}")
        else:
            sessions.append(session)
    if objections:
        more = len(objections) - _OBJECTIONS_SHOWN
        shown = objections[:_OBJECTIONS_SHOWN] + ([f"… and {more} more"] if more > 0 else [])
        raise UnreadableSessions("\n".join(shown))
    if not sessions:
        raise UnreadableSessions(f"{name} holds no sessions")
    return sessions


class _BadValue(Exception):
    def __init__(self, column: str, what: str) -> None:
        super().__init__(what)
        self.column = column


def _session(row: dict[str, str | None]) -> Session:
    return Session(
        session_id=_identifier(row, "sessionId"),
        user_id=_identifier(row, "userId"),
        ended_at=_instant(row, "ended"),
        energy_kwh=_energy(row, "kwhTotal"),
        pass_type=_pass_type(row, "platform"),
        location_id=_identifier(row, "locationId"),
    )


def _check_is_new(session: Session, lines: dict[str, int], line: int) -> None:
    first = lines.setdefault(session.session_id, line)
    if first != line:
        raise _BadValue("sessionId", f"{session.session_id!r} stands on line {first} already")


def _text(row: dict[str, str | None], column: str) -> str:
    text = row[column]
    if text is None:
        raise _BadValue(column, "the line ends before it")
    return text.strip()


def _identifier(row: dict[str, str | None], column: str) -> str:
    text = _text(row, column)
    if not text or len(text) > 200 or not text.isascii() or not text.isprintable():
        raise _BadValue(column, f"{text!r} is no identifier: 1 to 200 printable ASCII characters")
    return text


def _instant(row: dict[str, str | None], column: str) -> datetime:
    text = _text(row, column)
    try:
        local = datetime.fromisoformat(text)
    except ValueError:
        raise _BadValue(column, f"{text!r} is no time like 2014-11-18 17:11:04") from None
    if local.tzinfo is not None:
        local = local.astimezone(UTC)
    instant = local.replace(year=local.year + 2000 if local.year < 100 else local.year, tzinfo=UTC)
    if not 2000 <= instant.year < 2100:
        raise _BadValue(column, f"{text!r} is not in this century")
    return instant


def _energy(row: dict[str, str | None], column: str) -> Decimal:
    text = _text(row, column)
    try:
        energy = Decimal(text)
    except InvalidOperation:
        raise _BadValue(column, f"{text!r} is no number of kWh") from None
    if not energy.is_finite() or not 0 <= energy <= _ENERGY_KWH_MAX:
        raise _BadValue(column, f"{text!r} is not between 0 and {_ENERGY_KWH_MAX} kWh")
    return round(energy, 6)


def _pass_type(row: dict[str, str | None], column: str) -> str | None:
    text = _text(row, column)
    if text not in _PASS_TYPES:
        raise _BadValue(column, f"{text!r} is none of {', '.join(_PASS_TYPES)}")
    return _PASS_TYPES[text]
