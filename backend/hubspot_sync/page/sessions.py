"""Who is signed in: a cookie that the page signs, and the token that each of its forms must bring back.

Any process of the application reads what another one signed; stored are only the sessions that were ended early.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import json
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from datetime import timedelta

from hubspot_sync.page.roles import Role

SESSION_LENGTH = timedelta(hours=12)
REVEAL_LENGTH = timedelta(minutes=5)
NAME_LENGTH_MAX = 60
# A name of sixty characters, the end and the nonce are far shorter.
_COOKIE_LENGTH_MAX = 1024


@dataclass(frozen=True, slots=True)
class Session:
    """`name` is what the person calls themselves; nobody checks it, for all who know the token are trusted alike."""

    name: str
    ends_at: int
    nonce: str
    role: Role = Role.OPERATOR

    @property
    def may_act(self) -> bool:
        return self.role is Role.OPERATOR

    @property
    def by(self) -> str:
        """Who did it, as the audit has it."""
        return f"page:{self.name}"

    @property
    def id(self) -> str:
        """What it is remembered by once it is ended: nothing that opens anything."""
        return hashlib.sha256(self.nonce.encode()).hexdigest()


class Seal:
    """Signs what the page hands to browsers. Its keys come of the tokens: a new operator's token ends every session.

    Which key has signed a cookie says whose it is: nothing in it can be changed to make an operator of a reader.
    """

    def __init__(self, operator_token: str, reader_token: str = "") -> None:
        self._key = _key_of(operator_token)
        self._keys = {Role.OPERATOR: self._key}
        if reader_token:
            self._keys[Role.READER] = _key_of(json.dumps([operator_token, reader_token]))

    def issue(self, name: str, now: float, role: Role = Role.OPERATOR) -> str:
        """A cookie for who has just shown the token."""
        ends_at = int(now + SESSION_LENGTH.total_seconds())
        content = urlsafe_b64encode(json.dumps([name, ends_at, secrets.token_urlsafe(16)]).encode()).decode()
        return f"{content}.{_mac(self._keys[role], 'session', content)}"

    def read(self, cookie: str, now: float) -> Session | None:
        """The session that the cookie proves; None when it is forged, spoilt or over."""
        content, _, mac = cookie.partition(".")
        if len(cookie) > _COOKIE_LENGTH_MAX:
            return None
        for role, key in self._keys.items():
            if _is_mac(key, mac, "session", content):
                name, ends_at, nonce = json.loads(urlsafe_b64decode(content))
                return Session(name, ends_at, nonce, role) if now < ends_at else None
        return None

    def form_token(self, session: Session) -> str:
        """What a form of this session carries; who cannot read our pages cannot know it."""
        return self._mac("form", session.nonce)

    def accepts(self, session: Session, form_token: str) -> bool:
        return _is_mac(self._key, form_token, "form", session.nonce)

    def reveal(self, session: Session, subject: str, now: float) -> str:
        """Shows, in this session and for a few minutes, what is personal of this subject."""
        ends_at = str(int(now + REVEAL_LENGTH.total_seconds()))
        return f"{ends_at}.{self._mac('reveal', session.nonce, ends_at, subject)}"

    def reveals(self, session: Session, subject: str, reveal: str, now: float) -> bool:
        ends_at, _, mac = reveal.partition(".")
        return _is_mac(self._key, mac, "reveal", session.nonce, ends_at, subject) and now < int(ends_at)

    def _mac(self, *words: str) -> str:
        return _mac(self._key, *words)


def _key_of(secret: str) -> bytes:
    # Slow to compute, so that a stolen cookie is a poor means to guess a short token.
    return hashlib.scrypt(secret.encode(), salt=b"hubspot_sync.page", n=2**14, r=8, p=1, dklen=32)


def _is_mac(key: bytes, offered: str, *words: str) -> bool:
    try:
        offered_bytes = offered.encode("ascii")
    except UnicodeEncodeError:
        return False
    return hmac.compare_digest(offered_bytes, _mac(key, *words).encode("ascii"))


def _mac(key: bytes, *words: str) -> str:
    # As JSON no two lists of words are the same text.
    return binascii.hexlify(hmac.digest(key, json.dumps(words).encode(), "sha256")).decode()
