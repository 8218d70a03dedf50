"""Nerava's HTTP API as drivers' phones and chargers use it, over a connection that may fail at any moment.

An unknown outcome (no answer, or a 5xx) is tried again with the same session id or key, so nothing happens twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import assert_never

import httpx2
from pydantic import BaseModel

from demo.codes import Codes
from demo.errors import DemoFailed
from demo.script import Action, Charge, DriverScript, InstallPass, Redeem

REQUEST_DEADLINE = timedelta(seconds=10)
# In all some 40 s of waiting: a restart of the application takes a few.
TRIES_MAX = 45
_WAIT_FIRST = timedelta(milliseconds=50)
_WAIT_MAX = timedelta(seconds=1)
_SIGN_IN_TRIES_MAX = 3


class UnexpectedAnswer(DemoFailed):
    """The application answered something that no driver of the script may get."""


class Unreachable(DemoFailed):
    """Every try failed; the outcome stays unknown."""


class _ChallengeStarted(BaseModel):
    challenge_id: str


class _SignedIn(BaseModel):
    access_token: str
    driver_id: str


@dataclass(frozen=True, slots=True)
class SignedInDriver:
    script: DriverScript
    driver_id: str
    token: str


class NeravaClient:
    """All the hub's phones and chargers share its connections; `retries` counts unknown outcomes tried again."""

    def __init__(self, url: str, service_key: str, codes: Codes, connections: int) -> None:
        self._http = httpx2.AsyncClient(
            base_url=url,
            timeout=REQUEST_DEADLINE.total_seconds(),
            limits=httpx2.Limits(max_connections=connections, max_keepalive_connections=connections),
            trust_env=False,
        )
        self._service_key = service_key
        self._codes = codes
        self.retries = 0

    async def close(self) -> None:
        await self._http.aclose()

    async def sign_up(self, script: DriverScript) -> SignedInDriver:
        """Sign up by the code that was sent. A code may turn out used when its first answer was lost: then another."""
        for _ in range(_SIGN_IN_TRIES_MAX):
            body: dict[str, object] = {script.channel: script.address}
            answer = await self._post("/v1/auth/otp/start", body, {}, (202,))
            challenge_id = _ChallengeStarted.model_validate(answer.json()).challenge_id
            code = await self._codes.wait_for(challenge_id)
            body = {"challenge_id": challenge_id, "code": code}
            answer = await self._post("/v1/auth/otp/verify", body, {}, (200, 410))
            if answer.status_code == 200:
                signed_in = _SignedIn.model_validate(answer.json())
                return SignedInDriver(script, signed_in.driver_id, signed_in.access_token)
        raise UnexpectedAnswer(f"Driver {script.number} got {_SIGN_IN_TRIES_MAX} codes and every one was used.")

    async def act(self, driver: SignedInDriver, action: Action) -> None:
        """Do it once, however many tries that takes."""
        bearer = {"Authorization": f"Bearer {driver.token}"}
        match action:
            case InstallPass():
                await self._post("/v1/wallet/passes", {"pass_type": action.pass_type}, bearer, (200, 201))
            case Charge():
                body = {
                    "session_id": action.session_id,
                    "driver_id": driver.driver_id,
                    "energy_kwh": str(action.energy_kwh),
                    "ended_at": action.ended_at.isoformat(),
                }
                await self._post("/v1/nova/grants", body, {"X-Service-Key": self._service_key}, (200, 201))
            case Redeem():
                expected = (409,) if action.exceeds_balance else (200, 201)
                keyed = bearer | {"Idempotency-Key": action.key}
                redemption = {"merchant_id": action.merchant_id, "amount": action.amount}
                await self._post("/v1/nova/redemptions", redemption, keyed, expected)
            case _:
                assert_never(action)

    async def _post(
        self, path: str, body: Mapping[str, object], headers: Mapping[str, str], expected: tuple[int, ...]
    ) -> httpx2.Response:
        wait, why = _WAIT_FIRST, ""
        for _ in range(TRIES_MAX):
            try:
                answer = await self._http.post(path, json=body, headers=headers)
            except httpx2.TransportError as error:
                why = f"{type(error).__name__}: {error}"
            else:
                if answer.status_code in expected:
                    return answer
                why = f"{answer.status_code} {answer.text[:300]}"
                if answer.status_code < 500:
                    raise UnexpectedAnswer(f"POST {path} was answered {why}")
            self.retries += 1
            await asyncio.sleep(wait.total_seconds())
            wait = min(wait * 2, _WAIT_MAX)
        raise Unreachable(f"POST {path} failed {TRIES_MAX} times, at last with: {why}")
