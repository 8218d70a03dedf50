"""A claim's events reach HubSpot, or a dry run's log. What HubSpot answers becomes outcomes and the gate's state."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import assert_never
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import ValidationError

from hubspot_sync.classification import (
    BURST_WAIT_FIRST,
    BURST_WAIT_MAX,
    Held,
    RefusedWhole,
    Settled,
    Throttled,
    Unavailable,
    Verdict,
    classify,
    classify_refusal,
)
from hubspot_sync.client import AccountDetails, Answer, HubSpotClient, NoAnswer
from hubspot_sync.event import Catalog
from hubspot_sync.translation import ContactUpsert, requests, translate
from outbox.gate import Entry, Gate, GateShut, LeaseEnding
from outbox.lease import Lease
from outbox.model import Event
from outbox.outcome import Delivered, Outcome, Postponed, Rejected, Retry
from outbox.worker import Claim

log = logging.getLogger(__name__)


class LiveDelivery:
    """Delivers to HubSpot, after making sure once that the token belongs to the account that was meant."""

    def __init__(self, client: HubSpotClient, catalog: Catalog, portal_id: str) -> None:
        self._client = client
        self._catalog = catalog
        self._portal_id = portal_id.strip()
        self._is_account_verified = False
        self._time_zone = ZoneInfo("UTC")
        self._throttles_in_a_row = 0

    async def __call__(self, claim: Claim, gate: Gate) -> Mapping[int, Outcome]:
        translation = translate(claim.events, self._catalog, claim.newer)
        outcomes: dict[int, Outcome] = {it.id: Postponed() for it in claim.events}
        outcomes |= translation.rejected
        try:
            if not self._is_account_verified:
                await self._verify_account(claim.lease, gate)
            for upserts in requests(translation.upserts):
                await self._upsert(upserts, claim.lease, gate, outcomes)
        except (GateShut, LeaseEnding):
            log.debug("The rest of the claim is handed back.")
        return outcomes

    async def _upsert(
        self, upserts: Sequence[ContactUpsert], lease: Lease, gate: Gate, outcomes: dict[int, Outcome]
    ) -> None:
        """Send one request, and smaller ones in its place when it was refused as a whole."""
        entry = await gate.enter(lease)
        verdict = await self._ask(upserts)
        match verdict:
            case Settled():
                await self._succeeded(entry, gate)
                for upsert in upserts:
                    outcomes |= _outcomes_of(upsert, verdict.outcomes[upsert.trace_id])
            case RefusedWhole(outcome) if len(upserts) == 1:
                await self._succeeded(entry, gate)
                outcomes |= _outcomes_of(upserts[0], outcome)
            case RefusedWhole():
                await self._succeeded(entry, gate)
                middle = len(upserts) // 2
                await self._upsert(upserts[:middle], lease, gate, outcomes)
                await self._upsert(upserts[middle:], lease, gate, outcomes)
            case Throttled() | Held() | Unavailable():
                await self._shut(verdict, entry, gate)
            case _:
                assert_never(verdict)

    async def _ask(self, upserts: Sequence[ContactUpsert]) -> Verdict:
        try:
            answer = await self._client.upsert_contacts([it.as_input() for it in upserts])
        except NoAnswer as error:
            return Unavailable(str(error))
        return classify(answer, upserts, now=datetime.now(UTC), time_zone=self._time_zone)

    async def _succeeded(self, entry: Entry, gate: Gate) -> None:
        """HubSpot answered this request for itself, whatever it said of the inputs."""
        self._throttles_in_a_row = 0
        await gate.record_success(entry)

    async def _shut(self, verdict: Throttled | Held | Unavailable, entry: Entry, gate: Gate) -> None:
        match verdict:
            case Throttled(wait, reason):
                await gate.throttle(wait or self._next_burst_wait(), reason)
            case Held(reason):
                self._is_account_verified = False
                await gate.hold(reason)
            case Unavailable(reason):
                await gate.record_outage(entry, reason)
            case _:
                assert_never(verdict)

    def _next_burst_wait(self) -> timedelta:
        wait: timedelta = min(BURST_WAIT_FIRST * 2**self._throttles_in_a_row, BURST_WAIT_MAX)
        self._throttles_in_a_row = min(self._throttles_in_a_row + 1, 10)
        return wait

    async def _verify_account(self, lease: Lease, gate: Gate) -> None:
        """Hold everything rather than write to an account that was not meant; raise GateShut when not verified."""
        entry = await gate.enter(lease)
        try:
            answer = await self._client.account_details()
        except NoAnswer as error:
            verdict: Throttled | Held | Unavailable | None = Unavailable(str(error))
        else:
            verdict = self._judge_account(answer)
        if verdict is None:
            self._is_account_verified = True
            await self._succeeded(entry, gate)
            return
        await self._shut(verdict, entry, gate)
        raise GateShut(await gate.refresh())

    def _judge_account(self, answer: Answer) -> Throttled | Held | Unavailable | None:
        if not answer.is_success:
            refusal = classify_refusal(answer, now=datetime.now(UTC), time_zone=self._time_zone)
            return refusal or Held(answer.summary())
        try:
            account = AccountDetails.model_validate(answer.body)
        except ValidationError:
            return Unavailable("HubSpot's account details are no JSON that names the portal")
        if str(account.portal_id) != self._portal_id:
            return Held(
                f"the token belongs to portal {account.portal_id}, HUBSPOT_PORTAL_ID says {self._portal_id}: "
                "set the one that is meant and restart the worker."
            )
        try:
            self._time_zone = ZoneInfo(account.time_zone)
        except (ZoneInfoNotFoundError, ValueError):
            log.warning(
                "HubSpot's time zone %s is unknown here; daily limits are taken to end at midnight UTC.",
                account.time_zone,
            )
        return None


class DryRun:
    """Builds what live would send, logs it, and marks the events delivered. Nothing leaves the machine."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def __call__(self, claim: Claim, gate: Gate) -> Mapping[int, Outcome]:
        translation = translate(claim.events, self._catalog, claim.newer)
        for upsert in translation.upserts:
            for event in upsert.events:
                _log_dry_run(event, upsert)
        would_be_sent = {event.id: Delivered(dry_run=True) for it in translation.upserts for event in it.events}
        return {**translation.rejected, **would_be_sent}


def _log_dry_run(event: Event, upsert: ContactUpsert) -> None:
    # The names of the properties only: their values are a person's.
    log.info(
        "[DRY-RUN] event %s (%s of %s) would upsert the contact by %s, setting %s",
        *(event.event_id, event.event_type, event.subject, upsert.key_property, ", ".join(upsert.properties)),
        extra={"event_id": str(event.event_id), "event_type": event.event_type, "subject": event.subject},
    )


def _outcomes_of(upsert: ContactUpsert, outcome: Outcome) -> dict[int, Outcome]:
    """The outcome of an input's events. Who of several merged ones is guilty shows only when they travel apart."""
    if isinstance(outcome, Rejected) and len(upsert.events) > 1:
        outcome = Retry(outcome.error)
    return {event.id: outcome for event in upsert.events}
