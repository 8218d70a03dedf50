"""One-time codes: sent to an address, they prove that a driver can read what is sent there."""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http import HTTPStatus
from math import ceil
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, delete, or_, select
from sqlalchemy.orm import Session

from app.addresses import Address, Channel
from app.clock import now
from app.database import lock_name
from app.models import OtpChallenge
from app.problems import NotFound, Problem
from hubspot_sync.network import network_of

log = logging.getLogger(__name__)

CODE_DIGITS = 6
CODE_LIFETIME = timedelta(minutes=10)
WRONG_TRIES_MAX = 5
RESEND_WINDOW = timedelta(minutes=15)
# Unused codes within that time. Of one client for one address: who means someone else's address uses up their own.
UNUSED_CODES_MAX = 5
# Of all clients for one address: 20 codes of 5 tries each leave guessers 100 in a million per quarter of an hour, and
# four clients have to work together to keep a fifth one out.
UNUSED_CODES_OF_ADDRESS_MAX = 20
# Of one client for all addresses. Drivers behind one router use their codes, and those are not counted.
UNUSED_CODES_OF_CLIENT_MAX = 60


class TooManyCodes(Problem):
    """This client, or all together for this address, asked for several codes and used none; wait for `Retry-After`
    seconds.
    """

    status = HTTPStatus.TOO_MANY_REQUESTS
    kind = "too-many-codes"
    title = "Too many codes requested"


class WrongCode(Problem):
    """This is not the code that was sent."""

    status = HTTPStatus.FORBIDDEN
    kind = "wrong-code"
    title = "Wrong code"


class CodeSpent(Problem):
    """The code was used, is too old, or was guessed at too often; start again."""

    status = HTTPStatus.GONE
    kind = "code-spent"
    title = "Code no longer valid"


@dataclass(frozen=True, slots=True)
class OneTimeCode:
    challenge_id: UUID
    address: Address
    expires_at: datetime
    code: str = field(repr=False)


# Sends a code to its address. It runs after the challenge is stored, in the request's thread; what it raises is the
# request's failure. A deployment passes its own to `create_app(send_code=…)`.
SendCode = Callable[[OneTimeCode], None]


def log_code(it: OneTimeCode) -> None:
    """The sender of a developer's machine: whoever reads the log can sign in as anyone."""
    log.warning(
        "One-time code for %s: %s",
        *(it.address.text, it.code),
        extra={"challenge_id": str(it.challenge_id), "address": it.address.text, "code": it.code},
    )


def start_challenge(db: Session, address: Address, client: str | None = None) -> OneTimeCode:
    """Store a new code for the address; it is the caller's to send once that is committed.

    `client` is the address of who asks, as the server knows it; None where it does not.
    """
    network = client and network_of(client)
    lock_name(db, address.text)
    _limit_unused_codes(db, address, network)
    challenge_id, code, started_at = uuid4(), _draw_code(), now()
    challenge = OtpChallenge(
        id=challenge_id,
        channel=address.channel,
        address=address.text,
        code_hash=_hash_code(challenge_id, code),
        wrong_tries=0,
        created_at=started_at,
        expires_at=started_at + CODE_LIFETIME,
        client=network,
    )
    db.add(challenge)
    return OneTimeCode(challenge_id, address, challenge.expires_at, code)


def try_code(db: Session, challenge_id: UUID, code: str) -> Address | Problem:
    """The address that the code proves, or why it proves none. Commit either way: a wrong try is counted."""
    address = db.scalar(select(OtpChallenge.address).where(OtpChallenge.id == challenge_id))
    if address is not None:
        lock_name(db, address)
    challenge = db.get(OtpChallenge, challenge_id)
    if challenge is None:
        return NotFound(f"There is no challenge {challenge_id}. Start again.")
    if reason := _why_spent(challenge):
        return CodeSpent(f"{reason} Start again for a new one.")
    if not hmac.compare_digest(challenge.code_hash, _hash_code(challenge_id, code)):
        challenge.wrong_tries += 1
        return WrongCode(f"This is not the code that was sent; {_tries_left(challenge)}.")
    challenge.used_at = now()
    return Address(Channel(challenge.channel), challenge.address)


def _limit_unused_codes(db: Session, address: Address, network: str | None) -> None:
    """Requests of one client that come at once for several addresses may get a few codes more."""
    c = OtpChallenge
    of_address, of_client = c.address == address.text, c.client == network
    db.execute(delete(c).where(or_(of_address, of_client), c.created_at <= now() - RESEND_WINDOW))
    _refuse_beyond(UNUSED_CODES_MAX, _unused(db, of_address, of_client), "this address")
    _refuse_beyond(UNUSED_CODES_OF_ADDRESS_MAX, _unused(db, of_address), "this address")
    if network is not None:
        _refuse_beyond(UNUSED_CODES_OF_CLIENT_MAX, _unused(db, of_client), "several addresses")


def _unused(db: Session, *conditions: ColumnElement[bool]) -> Sequence[datetime]:
    """When the unused codes of the window were made, in order."""
    is_recent = OtpChallenge.created_at > now() - RESEND_WINDOW
    unused = select(OtpChallenge.created_at).where(*conditions, OtpChallenge.used_at.is_(None), is_recent)
    return db.scalars(unused.order_by(OtpChallenge.created_at)).all()


def _refuse_beyond(limit: int, sent_at: Sequence[datetime], where: str) -> None:
    if len(sent_at) < limit:
        return
    seconds = ceil((sent_at[-limit] + RESEND_WINDOW - now()).total_seconds())
    raise TooManyCodes(
        f"{len(sent_at)} codes were sent to {where} and none was used. "
        f"Use the last one, or ask again in {ceil(seconds / 60)} minutes.",
        headers={"Retry-After": str(seconds)},
    )


def _why_spent(challenge: OtpChallenge) -> str | None:
    if challenge.used_at is not None:
        return "This code has been used."
    if challenge.wrong_tries >= WRONG_TRIES_MAX:
        return f"This code was answered wrongly {WRONG_TRIES_MAX} times."
    if challenge.expires_at <= now():
        return f"This code is older than {CODE_LIFETIME // timedelta(minutes=1)} minutes."
    return None


def _tries_left(challenge: OtpChallenge) -> str:
    left = WRONG_TRIES_MAX - challenge.wrong_tries
    return f"{left} more {'try is' if left == 1 else 'tries are'} left" if left else "no tries are left"


def _draw_code() -> str:
    return f"{secrets.randbelow(10**CODE_DIGITS):0{CODE_DIGITS}d}"


def _hash_code(challenge_id: UUID, code: str) -> str:
    # The challenge's id is the salt. A million codes are soon tried by who has the table: the code's short life and
    # the few tries are what protects it, the hash keeps it from being read in passing.
    return hmac.new(challenge_id.bytes, code.encode(), hashlib.sha256).hexdigest()
