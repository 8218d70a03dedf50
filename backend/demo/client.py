"""Nerava's HTTP API as drivers' phones and chargers use it, over a connection that may fail at any moment.

An unknown outcome (no answer, or a 5xx) is tried again with the same session id or key, so nothing happens twice.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from typing import assert_never

import httpx2
from pydantic import BaseModel

from demo.codes import Codes
from demo.errors import DemoFailed
from demo.script import Action, Charge, Driver, InstallPass, Leave, Redeem, SignUp

REQUEST_DEADLINE = timedelta(seconds=10)
# In all some 40 s of waiting: a restart of the application takes a few.
TRIES_MAX = 45
_WAIT_FIRST = timedelta(milliseconds=50)
_WAIT_MAX = timedelta(seconds=1)
_CODES_MAX = 3


class UnexpectedAnswer(DemoFailed):
    """The application answered something that no driver of the script may get."""


class Unreachable(DemoFailed):
    """Every try failed; the outcome stays unknown."""


class _ChallengeStarted(BaseModel):
    challenge_id: str


class _SignedIn(BaseModel):
    access_token: str
    driver_id: str


class NeravaClient:
    """All the hub's phones and chargers share its connections; `retries` counts unknown outcomes by their kind."""

    def __init__(self, url: str, service_key: str, codes: Codes, connections: int) -> None:
        self._http = httpx2.AsyncClient(
            base_url=url,
            timeout=REQUEST_DEADLINE.total_seconds(),
            limits=httpx2.Limits(max_connections=connections, max_keepalive_connections=connections),
            trust_env=False,
        )
        self._service_key = service_key
        self._codes = codes
        self._signed_in: dict[int, _SignedIn] = {}
        self.retries: Counter[str] = Counter()

    async def close(self) -> None:
        await self._http.aclose()

    async def act(self, driver: Driver, action: Action) -> None:
        """Do it once, however many tries that takes."""
        match action:
            case SignUp():
                self._signed_in[driver.number] = await self._sign_up(driver)
            case InstallPass():
                await self._post("/v1/wallet/passes", {"pass_type": action.pass_type}, self._bearer(driver), (200, 201))
            case Charge():
                body = {
                    "session_id": action.session_id,
                    "driver_id": self._signed_in[driver.number].driver_id,
                    "energy_kwh": str(action.energy_kwh),
                    "ended_at": action.ended_at.isoformat(),
                }
                await self._post("/v1/nova/grants", body, {"X-Service-Key": self._service_key}, (200, 201))
            case Redeem():
                expected = (409,) if action.exceeds_balance else (200, 201)
                keyed = self._bearer(driver) | {"Idempotency-Key": action.key}
                redemption = {"merchant_id": action.merchant_id, "amount": action.amount}
                await self._post("/v1/nova/redemptions", redemption, keyed, expected)
            case Leave():
                # 401 is what a repeat gets whose first answer was lost.
                await self._ask("DELETE", "/v1/driver", None, self._bearer(driver), (202, 401))
            case _:
                assert_never(action)

    async def _sign_up(self, driver: Driver) -> _SignedIn:
        """A code may turn out to be used, when the answer to its first use was lost; then another one is sent."""
        for _ in range(_CODES_MAX):
            answer = await self._post("/v1/auth/otp/start", {driver.channel: driver.address}, {}, (202,))
            challenge_id = _ChallengeStarted.model_validate(answer.json()).challenge_id
            code = await self._codes.wait_for(challenge_id)
            answer = await self._post(
                "/v1/auth/otp/verify", {"challenge_id": challenge_id, "code": code}, {}, (200, 410)
            )
            if answer.status_code == 200:
                return _SignedIn.model_validate(answer.json())
        raise UnexpectedAnswer(f"Driver {driver.number} got {_CODES_MAX} codes, and each was said to be used.")

    def _bearer(self, driver: Driver) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._signed_in[driver.number].access_token}"}

    async def _post(
        self, path: str, body: Mapping[str, object], headers: Mapping[str, str], expected: tuple[int, ...]
    ) -> httpx2.Response:
        return await self._ask("POST", path, body, headers, expected)

    async def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None,
        headers: Mapping[str, str],
        expected: tuple[int, ...],
    ) -> httpx2.Response:
        wait, kind, why = _WAIT_FIRST, "", ""
        for _ in range(TRIES_MAX):
            try:
                answer = await self._http.request(method, path, json=body, headers=headers)
            except httpx2.TransportError as error:
                kind, why = type(error).__name__, str(error)
            else:
                if answer.status_code in expected:
                    return answer
                kind, why = str(answer.status_code), answer.text[:300]
                if answer.status_code < 500:
                    raise UnexpectedAnswer(f"{method} {path} was answered {kind} {why}")
            self.retries[kind] += 1
            await asyncio.sleep(wait.total_seconds())
            wait = min(wait * 2, _WAIT_MAX)
        raise Unreachable(f"{method} {path} failed {TRIES_MAX} times, at last with: {kind} {why}")
