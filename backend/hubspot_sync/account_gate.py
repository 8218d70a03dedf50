"""The gate to the account: what HubSpot answers shuts it and opens it, and nothing passes to an account not meant."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import assert_never

from hubspot_sync.account import objection_to, read_account
from hubspot_sync.answer import Answer
from hubspot_sync.classification import Held, Refusal, Throttled, Unavailable, classify_refusal
from hubspot_sync.errors import NoAnswer
from hubspot_sync.limits import DailyLimit, call_in_control_slot, keep_pace, until_midnight
from hubspot_sync.poison_detection import Suspicion, outage_of_one
from hubspot_sync.target_account import TargetAccount
from sqlalchemy_outbox.gate.gate import Gate, GateShut, LeaseEnding
from sqlalchemy_outbox.gate.row import Permit
from sqlalchemy_outbox.lease import REQUEST_DEADLINE, Lease
from sqlalchemy_outbox.model import Event
from sqlalchemy_outbox.outcome import Postponed, Retry

# The first wait after a burst, and the longest: HubSpot's rolling window of ten seconds frees capacity all the time, so
# a short one costs one refused request at most.
BURST_WAIT_FIRST = timedelta(seconds=1)
BURST_WAIT_MAX = timedelta(seconds=10)
# The most that a wait is lengthened by: all who wait for the same moment would come at once.
JITTER_MAX = timedelta(seconds=1)


class AccountGate:
    """The outbox's gate, for requests to one account."""

    def __init__(self, account: TargetAccount, gate: Gate) -> None:
        self._account = account
        self.gate = gate

    async def enter(self, lease: Lease) -> Permit:
        """Leave to send a request now to the account that was meant; raises GateShut or LeaseEnding."""
        permit = await self.gate.enter(lease)
        if self._account.verified is None:
            await self.verify_account()
            # A slot that was waited in has passed; a probe's next one would be refused.
            permit = permit if permit.is_probe else await self.gate.enter(lease)
        if not lease.covers(REQUEST_DEADLINE):
            raise LeaseEnding
        return permit

    async def verify_account(self) -> None:
        """Hold everything rather than write to an account that was not meant; raise GateShut when not verified.

        It takes a control slot, so that a hold is lifted by a delivery that got through, and not by this request.
        """
        async with self._account.verification:
            if self._account.verified is not None:
                return
            try:
                verdict = self._judge_account(
                    await call_in_control_slot(self.gate, self._account.client.account_details)
                )
            except NoAnswer as error:
                verdict = Unavailable(str(error))
            if verdict is not None:
                await self.shut(verdict)
                raise GateShut(await self.gate.refresh())

    def _judge_account(self, answer: Answer) -> Refusal | None:
        """Why nothing may be sent; None, and the account is known, when it is the one that was meant."""
        account = self._account
        if not answer.is_success:
            refusal = classify_refusal(answer, now=datetime.now(UTC), time_zone=account.time_zone)
            return refusal or Held(answer.summary())
        found = read_account(answer)
        if found is None:
            return Unavailable("HubSpot's account details are no JSON that names the portal")
        if (objection := objection_to(found, account.portal_id)) is not None:
            return Held(objection)
        account.verified, account.time_zone = found, found.time_zone
        return None

    async def succeeded(self, permit: Permit) -> None:
        """HubSpot answered the request for itself, whatever it said of the inputs."""
        self._account.throttles_in_a_row = 0
        await self.gate.record_success(permit)

    async def shut(self, verdict: Refusal, permit: Permit | None = None) -> None:
        match verdict:
            case Throttled(wait, reason):
                jitter = JITTER_MAX * self._account.random.random()
                await self.gate.throttle((wait or self._next_burst_wait()) + jitter, reason)
            case Held(reason):
                self._account.verified = None
                await self.gate.hold(reason)
            case Unavailable(reason):
                await self.gate.record_outage(permit or Permit(is_probe=False, outages=0), reason)
            case _:
                assert_never(verdict)

    async def bear(self, verdict: Unavailable, suspicion: Suspicion, permit: Permit) -> Retry | Postponed:
        """What becomes of those whose request got no answer."""
        if permit.is_probe or not suspicion.is_singular:
            outage = verdict
            if (subject := suspicion.only_subject) is not None:
                record_id = self._account.contacts.record_of(subject)
                contact = subject if record_id is None else f"{subject} (record {record_id})"
                outage = Unavailable(outage_of_one(contact, verdict.reason))
            await self.shut(outage, permit)
        wait = suspicion.wait
        if permit.is_probe:
            # The next probe is another's.
            wait = max(wait, self.gate.shut_for())
        wait *= 1 + self._account.random.random() / 2
        return Retry(verdict.reason) if suspicion.is_blamed else Postponed(verdict.reason, wait)

    async def ask_for_one(
        self, event: Event, lease: Lease, call: Callable[[], Awaitable[Answer]]
    ) -> Answer | Retry | Postponed:
        """The answer to a request about one subject alone, a refusal included; else what becomes of its event.

        Raises GateShut where HubSpot answers nobody so; a right that this request lacks is no matter of others.
        """
        permit = await self.enter(lease)
        detector = self._account.erasure_detector
        verdict: Refusal | None
        try:
            answer = await call()
        except NoAnswer as error:
            verdict = Unavailable(str(error))
        else:
            await self.keep_limits(answer)
            verdict = classify_refusal(answer, now=datetime.now(UTC), time_zone=self._account.time_zone)
            if verdict is None or (isinstance(verdict, Held) and answer.status != 401):
                detector.note_answer([event])
                await self.gate.record_success(permit)
                return answer
        if isinstance(verdict, Unavailable):
            return await self.bear(verdict, detector.note_no_answer([event]), permit)
        await self.shut(verdict, permit)
        raise GateShut(await self.gate.refresh())

    async def keep_limits(self, answer: Answer) -> None:
        """Keep the account's pace, and leave to others what is theirs of its day."""
        await keep_pace(answer.headers, self.gate)
        daily, reserve = DailyLimit.read(answer.headers), self._account.daily_reserve
        if daily is None or not answer.is_success or daily.leaves(reserve):
            return
        wait = until_midnight(answer.sent_at(datetime.now(UTC)), self._account.time_zone)
        await self.gate.throttle(
            wait,
            f"{daily.remaining} of the account's {daily.maximum} requests are left today; HUBSPOT_DAILY_RESERVE "
            f"({reserve:g}) keeps them for others until the account's midnight",
        )

    def _next_burst_wait(self) -> timedelta:
        throttles = self._account.throttles_in_a_row
        wait: timedelta = min(BURST_WAIT_FIRST * 2**throttles, BURST_WAIT_MAX)
        self._account.throttles_in_a_row = min(throttles + 1, 10)
        return wait
