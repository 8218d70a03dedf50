"""A claim's events reach HubSpot. What HubSpot answers becomes outcomes and the gate's state."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random
from typing import assert_never
from zoneinfo import ZoneInfo

from hubspot_sync.account import Account, objection_to, read_account
from hubspot_sync.account_properties import AccountProperties
from hubspot_sync.addressing import Found, holders, judge_moves
from hubspot_sync.answer import Answer
from hubspot_sync.classification import (
    CONFLICT_WAIT,
    UNREAD,
    Contested,
    Finding,
    Held,
    Refusal,
    RefusedWhole,
    Settled,
    Throttled,
    Unavailable,
    Unexplained,
    Verdict,
    Written,
    classify,
    classify_refusal,
    objection_to_read,
)
from hubspot_sync.client import HubSpotClient
from hubspot_sync.course import Course
from hubspot_sync.errors import NoAnswer, Refused
from hubspot_sync.event import Catalog
from hubspot_sync.identity import give_way, resolve
from hubspot_sync.known_contacts import KnownContacts
from hubspot_sync.limits import DailyLimit, call_aside, keep_pace, until_midnight
from hubspot_sync.overtaken import heed_newer
from hubspot_sync.record import record_upsert
from hubspot_sync.spans import describe, upsert_span
from hubspot_sync.translation import INPUTS_MAX, ContactUpsert, requests, translate
from hubspot_sync.weather import Suspicion, Weather, outage_of_one
from sqlalchemy_outbox.destination import Claim
from sqlalchemy_outbox.gate.gate import Gate, GateShut, LeaseEnding
from sqlalchemy_outbox.gate.row import Entry
from sqlalchemy_outbox.lease import REQUEST_DEADLINE, Lease
from sqlalchemy_outbox.outcome import Outcome, Postponed, Rejected, Retry
from sqlalchemy_outbox.tracing import traceparent_of

log = logging.getLogger(__name__)

# A rolling window of ten seconds frees capacity all the time: a short first wait costs one refused request at most.
BURST_WAIT_FIRST = timedelta(seconds=1)
BURST_WAIT_MAX = timedelta(seconds=10)
# All who wait for the same moment would come at once.
JITTER_MAX = timedelta(seconds=1)
# So many inputs alone, and none got through: it may not be the inputs.
SUSPECTS_MAX = 3
# Then so many of the others are tried alone, from all over the claim, before everything is held.
_OTHERS_TRIED_MAX = 5


class LiveDelivery:
    """Delivers to HubSpot, after making sure that the token belongs to the account that was meant.

    `daily_reserve` is the share of the account's daily limit that is left to others.
    """

    def __init__(
        self, client: HubSpotClient, catalog: Catalog, portal_id: str, *, daily_reserve: float, random: Random
    ) -> None:
        self._client = client
        self._catalog = catalog
        self._portal_id = portal_id
        self._daily_reserve = daily_reserve
        self._random = random
        self._account: Account | None = None
        self._time_zone: ZoneInfo | None = None
        self._verification = asyncio.Lock()
        self._contacts = KnownContacts()
        self._weather = Weather()
        # Of reads alone: a subject whose upserts are answered may be one whose contact nobody is shown.
        self._weather_of_reads = Weather()
        self._properties = AccountProperties(client, catalog)
        self._throttles_in_a_row = 0
        # Each worker begins elsewhere, and goes on from there.
        self._rounds_of_others = int(random.random() * INPUTS_MAX)

    async def __call__(self, claim: Claim, gate: Gate) -> Mapping[int, Outcome]:
        translation = await heed_newer(translate(claim.events, self._catalog), claim)
        course = Course(claim.events, translation, claim.note)
        try:
            await self._properties.set_apart_known(course, gate)
            await self._judge_moves(course, claim, gate)
            while heads := course.heads():
                if contested := [upsert for upsert in heads if upsert.contested is not None]:
                    await self._look_at_holders(contested, course, claim.lease, gate)
                    continue
                if any(upsert.is_waiting for upsert in heads):
                    await self._wait(CONFLICT_WAIT)
                for inputs_max, some in self._weather.by_size(heads):
                    for upserts in requests(some, inputs_max):
                        await self._send(upserts, course, claim.lease, gate)
                await self._judge_suspects(course, gate)
        except (GateShut, LeaseEnding):
            log.debug("The rest of the claim is handed back.")
        return course.outcomes

    async def verify_account(self, gate: Gate) -> None:
        """Hold everything rather than write to an account that was not meant; raise GateShut when not verified.

        It takes a slot aside, so that a hold is lifted by a delivery that got through and not by this look.
        """
        async with self._verification:
            if self._account is not None:
                return
            try:
                verdict = self._judge_account(await call_aside(gate, self._client.account_details))
            except NoAnswer as error:
                verdict = Unavailable(str(error))
            if verdict is not None:
                await self._shut(verdict, None, gate)
                raise GateShut(await gate.refresh())

    async def is_over(self, key: str, gate: Gate) -> bool:
        """Whether the account has now what the key of a wait names; False where that is not known here."""
        await self.verify_account(gate)
        return await self._properties.is_over(key, gate)

    async def _judge_moves(self, course: Course, claim: Claim, gate: Gate) -> None:
        heads = course.heads()
        moving = [upsert for upsert in heads if any(said.move is not None for said in upsert.contributions)]
        if moving:
            judged = await judge_moves(moving, claim, partial(self._read, claim.lease, gate))
            for upsert, changed in zip(moving, judged, strict=True):
                if not isinstance(changed, ContactUpsert):
                    course.conclude(upsert, changed)
                elif changed.says_anything:
                    course.replace(upsert, changed)
                else:
                    # Sent all the same, it would make a contact where there is none.
                    course.deliver(changed)

    async def _look_at_all(
        self, finding: Finding, upserts: Sequence[ContactUpsert], course: Course, lease: Lease, gate: Gate
    ) -> bool:
        """See who has the addresses of a request that was refused for one of them; false when that leads nowhere."""
        if not isinstance(finding, Contested):
            return False
        contested = [replace(upsert, contested=finding) for upsert in upserts if _may_be_looked_at(upsert)]
        return bool(contested) and await self._look_at_holders(contested, course, lease, gate)

    async def _look_at_holders(
        self, upserts: Sequence[ContactUpsert], course: Course, lease: Lease, gate: Gate
    ) -> bool:
        """See whose contacts have the addresses that these upserts claim; what follows comes in their place.

        False when nobody has any of them.
        """
        found, unread = await holders(partial(self._read, lease, gate), upserts)
        for upsert in upserts:
            if (outcome := unread.get(upsert.subject)) is not None:
                course.conclude(upsert, outcome)
                continue
            step = give_way(replace(upsert, was_looked_at=True), found.get(upsert.email or ""))
            if isinstance(step, Rejected):
                self._conclude(replace(upsert, contested=None), step, course)
            else:
                course.replace(upsert, step)
        return bool(found)

    async def _read(
        self, lease: Lease, gate: Gate, key_property: str, upserts: Sequence[ContactUpsert], properties: Sequence[str]
    ) -> Found:
        """Read contacts in slots like any delivery's; raises GateShut where nobody's can be read.

        What goes wrong with one contact is its own upsert's matter.
        """
        found = Found()
        for upserts_max, some in self._weather_of_reads.by_size(upserts):
            for start in range(0, len(some), upserts_max):
                few = some[start : start + upserts_max]
                found = found.and_also(await self._read_few(lease, gate, key_property, few, properties))
        return found

    async def _read_few(
        self, lease: Lease, gate: Gate, key_property: str, upserts: Sequence[ContactUpsert], properties: Sequence[str]
    ) -> Found:
        entry = await self._enter(lease, gate)
        keys = list(dict.fromkeys(upsert.properties[key_property] for upsert in upserts))
        try:
            answer = await self._client.read_contacts(key_property, keys, properties)
        except NoAnswer as error:
            return await self._bear_no_read(Unavailable(str(error)), upserts, entry, gate)
        await self._heed_limits(answer, gate)
        judge = partial(objection_to_read, answer, now=datetime.now(UTC), time_zone=self._time_zone)
        match await asyncio.to_thread(judge) if answer.is_large else judge():
            case Unavailable() as verdict:
                return await self._bear_no_read(verdict, upserts, entry, gate)
            case Throttled() | Held() as verdict:
                await self._shut(verdict, entry, gate)
                raise GateShut(await gate.refresh())
            case objection:
                self._weather_of_reads.note_answer(upserts)
                await gate.record_success(entry)
        if objection is None:
            body = answer.batch()
            return Found(() if body is None else body.results)
        if len(upserts) == 1:
            return Found(unread={upserts[0].subject: objection})
        first, second = _halves(upserts)
        found = await self._read_few(lease, gate, key_property, first, properties)
        return found.and_also(await self._read_few(lease, gate, key_property, second, properties))

    async def _bear_no_read(
        self, verdict: Unavailable, upserts: Sequence[ContactUpsert], entry: Entry, gate: Gate
    ) -> Found:
        """As with an upsert, only that nothing can have been applied."""
        suspicion = self._weather_of_reads.note_no_answer(upserts)
        outcome = await self._bear(replace(verdict, reason=f"{UNREAD}{verdict.reason}"), suspicion, entry, gate)
        return Found(unread={upsert.subject: outcome for upsert in upserts})

    async def _send(
        self, upserts: Sequence[ContactUpsert], course: Course, lease: Lease, gate: Gate, *, is_repeat: bool = False
    ) -> bool:
        """Send one request, and smaller ones in its place when it was refused as a whole; true when it was not."""
        upserts = [upsert for upsert in upserts if course.is_next(upsert)]
        if not upserts:
            return True
        entry = await self._enter(lease, gate)
        verdict = await self._ask(upserts, course, gate)
        match verdict:
            case Settled():
                await self._settle(verdict, upserts, course, entry, lease, gate)
                return True
            case RefusedWhole():
                await self._succeeded(upserts, entry, gate)
                if isinstance(verdict.finding, Unexplained) and await self._properties.set_apart_unnamed(
                    upserts, course, gate
                ):
                    return await self._send(upserts, course, lease, gate, is_repeat=is_repeat)
                await self._single_out(verdict, upserts, course, lease, gate, is_repeat=is_repeat)
            case Unavailable():
                await self._bear_no_answer(verdict, upserts, course, entry, gate)
            case Held() if verdict.is_of_properties:
                if (refusal := await self._find_lack(verdict, upserts, course, gate)) is not None:
                    course.hand_back(upserts)
                    await self._shut(refusal, entry, gate)
                    return False
                await self._succeeded(upserts, entry, gate)
                return await self._send(upserts, course, lease, gate, is_repeat=is_repeat)
            case Throttled() | Held():
                course.hand_back(upserts)
                await self._shut(verdict, entry, gate)
            case _:
                assert_never(verdict)
        return False

    async def _enter(self, lease: Lease, gate: Gate) -> Entry:
        """Leave to send a request now to the account that was meant."""
        entry = await gate.enter(lease)
        if self._account is None:
            await self.verify_account(gate)
            # A slot that was waited in has passed; a probe's next one would be refused.
            entry = entry if entry.is_probe else await gate.enter(lease)
        if not lease.covers(REQUEST_DEADLINE):
            raise LeaseEnding
        return entry

    async def _ask(self, upserts: Sequence[ContactUpsert], course: Course, gate: Gate) -> Verdict:
        began_at = time.monotonic()
        with upsert_span(upserts) as span:
            answer, verdict = await self._exchange(upserts)
            record = replace(record_upsert(upserts, began_at, verdict, answer), traceparent=traceparent_of(span))
            describe(span, record)
        course.note(record)
        if answer is not None:
            await self._heed_limits(answer, gate)
        return verdict

    async def _exchange(self, upserts: Sequence[ContactUpsert]) -> tuple[Answer | None, Verdict]:
        personal = {value for it in upserts for value in it.personal_values}
        try:
            answer = await self._client.upsert_contacts([it.as_input() for it in upserts], personal)
        except NoAnswer as error:
            return None, Unavailable(str(error))
        if answer.status != 200:
            log.debug("%s (correlation id %s)", answer.summary(), answer.correlation_id or "none")
        return answer, await self._judge(answer, upserts)

    async def _judge(self, answer: Answer, upserts: Sequence[ContactUpsert]) -> Verdict:
        judge = partial(classify, answer, upserts, now=datetime.now(UTC), time_zone=self._time_zone)
        # What takes long to read takes long to judge.
        return await asyncio.to_thread(judge) if answer.is_large else judge()

    async def _settle(
        self,
        settled: Settled,
        upserts: Sequence[ContactUpsert],
        course: Course,
        entry: Entry,
        lease: Lease,
        gate: Gate,
    ) -> None:
        doubtful: list[ContactUpsert] = []
        certain: list[ContactUpsert] = []
        for upsert in upserts:
            is_doubtful = _is_doubtful(settled.findings.get(upsert.trace_id), settled.shut)
            (doubtful if is_doubtful else certain).append(upsert)
        self._conclude_each(certain, settled, course)
        refusal: Throttled | Held | Unavailable | None = settled.shut
        if isinstance(refusal, Held) and refusal.is_of_properties:
            refusal = await self._find_lack(refusal, doubtful, course, gate)
        elif doubtful:
            await self._properties.set_apart_unnamed(doubtful, course, gate)
            # What the list does not explain either is wrong in itself.
            self._conclude_each([upsert for upsert in doubtful if course.is_next(upsert)], settled, course)
        if refusal is not None:
            course.hand_back(doubtful)
            await self._shut(refusal, entry, gate)
            return
        await self._succeeded(upserts, entry, gate)
        course.has_accepted |= any(isinstance(it, Written) for it in settled.findings.values())
        # Of fewer inputs the answer is shorter, and among them it shows whose its errors are.
        unsettled = [upsert for upsert in upserts if course.is_next(upsert)]
        course.leave_in_doubt(unsettled)
        for half in _halves(unsettled):
            if half:
                await self._send(half, course, lease, gate)

    def _conclude_each(self, upserts: Sequence[ContactUpsert], settled: Settled, course: Course) -> None:
        for upsert in upserts:
            if (finding := settled.findings.get(upsert.trace_id)) is not None:
                self._conclude(upsert, finding, course)

    async def _find_lack(
        self, held: Held, upserts: Sequence[ContactUpsert], course: Course, gate: Gate
    ) -> Refusal | None:
        """Set apart what sets properties that the account lacks; or return why all have to wait.

        HubSpot may name any number of them, or none: the list of properties says it. Where that contradicts HubSpot,
        the request is worth a repeat, as they may just have been provisioned.
        """
        try:
            lack = await self._properties.look(gate, time.monotonic())
        except NoAnswer as error:
            return Unavailable(str(error))
        except Refused as refused:
            refusal = classify_refusal(refused.answer, now=datetime.now(UTC), time_zone=self._time_zone)
            return refusal if isinstance(refusal, Throttled | Unavailable) else Held(held.reason)
        if lack.key_trouble is not None:
            return Held(lack.key_trouble)
        concerned = [upsert for upsert in upserts if lack.names & upsert.properties.keys()]
        course.set_apart(lack)
        if concerned or not course.has_doubted_hubspot:
            course.has_doubted_hubspot |= not concerned
            return None
        return Held(held.reason)

    async def _single_out(
        self,
        refusal: RefusedWhole,
        upserts: Sequence[ContactUpsert],
        course: Course,
        lease: Lease,
        gate: Gate,
        *,
        is_repeat: bool,
    ) -> None:
        """Find the guilty input of a refused request: repeat what may pass by itself, then divide."""
        has_repeated = is_repeat or any(it.conflicts for it in upserts)
        if refusal.repeat_after is not None and not has_repeated:
            await self._wait(refusal.repeat_after)
            await self._send(upserts, course, lease, gate, is_repeat=True)
        elif len(upserts) > 1:
            # One look at all addresses may find whose it is.
            if not await self._look_at_all(refusal.finding, upserts, course, lease, gate):
                await self._divide(refusal, course.next_of(upserts), course, lease, gate)
        elif refusal.suspicion is not None and not course.has_accepted:
            course.suspect(upserts[0], refusal)
            if len(course.suspects) == SUSPECTS_MAX:
                await self._try_others(course, lease, gate)
                await self._judge_suspects(course, gate)
        else:
            has_waited = is_repeat and refusal.repeat_after is not None
            self._conclude(upserts[0], refusal.finding, course, has_waited=has_waited)

    async def _divide(
        self, refusal: RefusedWhole, upserts: Sequence[ContactUpsert], course: Course, lease: Lease, gate: Gate
    ) -> None:
        first, second = _halves(upserts)
        was_accepted = await self._send(first, course, lease, gate, is_repeat=True)
        if was_accepted and not refusal.is_of_all and len(second) > 1:
            # The guilty one is in the second half, which would be refused like the whole.
            await self._divide(refusal, second, course, lease, gate)
        else:
            await self._send(second, course, lease, gate, is_repeat=True)

    async def _try_others(self, course: Course, lease: Lease, gate: Gate) -> None:
        """Send some inputs alone until one gets through; after a hold others than before."""
        others = course.unsuspected()
        first, count = self._rounds_of_others, min(len(others), _OTHERS_TRIED_MAX)
        self._rounds_of_others += 1
        for number in range(count):
            if course.has_accepted:
                return
            await self._send([others[(first + number * len(others) // count) % len(others)]], course, lease, gate)

    async def _judge_suspects(self, course: Course, gate: Gate) -> None:
        """What was refused alone is guilty if anything else got through; else all requests are refused."""
        for upsert, refusal in course.take_suspects():
            if course.has_accepted or refusal.suspicion is None:
                self._conclude(upsert, refusal.finding, course)
            else:
                await self._shut(refusal.suspicion, None, gate)
                raise GateShut(await gate.refresh())

    def _conclude(self, upsert: ContactUpsert, finding: Finding, course: Course, *, has_waited: bool = False) -> None:
        """The finding becomes the outcome of the input's events, or other inputs in its place."""
        match finding:
            case Written(record_id):
                self._contacts.note(upsert.subject, record_id)
                course.deliver(upsert)
            case Contested():
                step = resolve(upsert.after_waiting() if has_waited else upsert, finding)
                if isinstance(step, Rejected):
                    self._conclude(upsert, step, course)
                else:
                    course.replace(upsert, step)
            case Rejected() if len(upsert.events) > 1:
                # Who of several merged ones is guilty shows when they travel apart.
                course.replace(upsert, *upsert.halves())
            case Rejected() | Retry() | Postponed():
                course.conclude(upsert, finding)
            case _:
                assert_never(finding)

    async def _bear_no_answer(
        self, verdict: Unavailable, upserts: Sequence[ContactUpsert], course: Course, entry: Entry, gate: Gate
    ) -> None:
        """It is HubSpot's day, for which nobody is charged; or, if all others are answered, the one input's doing."""
        course.leave_in_doubt(upserts)
        outcome = await self._bear(verdict, self._weather.note_no_answer(upserts), entry, gate)
        for upsert in upserts:
            course.conclude(upsert, outcome)

    async def _bear(self, verdict: Unavailable, suspicion: Suspicion, entry: Entry, gate: Gate) -> Retry | Postponed:
        """What becomes of those whose request got no answer."""
        if entry.is_probe or not suspicion.is_singular:
            outage = verdict
            if (subject := suspicion.only_subject) is not None:
                record_id = self._contacts.record_of(subject)
                contact = subject if record_id is None else f"{subject} (record {record_id})"
                outage = Unavailable(outage_of_one(contact, verdict.reason))
            await self._shut(outage, entry, gate)
        wait = suspicion.wait
        if entry.is_probe:
            # The next probe is another's.
            wait = max(wait, gate.shut_for())
        wait *= 1 + self._random.random() / 2
        return Retry(verdict.reason) if suspicion.is_blamed else Postponed(verdict.reason, wait)

    async def _succeeded(self, upserts: Sequence[ContactUpsert], entry: Entry, gate: Gate) -> None:
        """HubSpot answered this request for itself, whatever it said of the inputs."""
        self._weather.note_answer(upserts)
        self._throttles_in_a_row = 0
        await gate.record_success(entry)

    async def _shut(self, verdict: Refusal, entry: Entry | None, gate: Gate) -> None:
        match verdict:
            case Throttled(wait, reason):
                jitter = JITTER_MAX * self._random.random()
                await gate.throttle((wait or self._next_burst_wait()) + jitter, reason)
            case Held(reason):
                self._account = None
                await gate.hold(reason)
            case Unavailable(reason):
                await gate.record_outage(entry or Entry(is_probe=False, outages=0), reason)
            case _:
                assert_never(verdict)

    def _next_burst_wait(self) -> timedelta:
        wait: timedelta = min(BURST_WAIT_FIRST * 2**self._throttles_in_a_row, BURST_WAIT_MAX)
        self._throttles_in_a_row = min(self._throttles_in_a_row + 1, 10)
        return wait

    async def _heed_limits(self, answer: Answer, gate: Gate) -> None:
        await keep_pace(answer.headers, gate)
        daily = DailyLimit.read(answer.headers)
        if daily is None or not answer.is_success or daily.leaves(self._daily_reserve):
            return
        wait = until_midnight(answer.sent_at(datetime.now(UTC)), self._time_zone)
        await gate.throttle(
            wait,
            f"{daily.remaining} of the account's {daily.maximum} requests are left today; HUBSPOT_DAILY_RESERVE "
            f"({self._daily_reserve:g}) keeps them for others until the account's midnight",
        )

    def _judge_account(self, answer: Answer) -> Refusal | None:
        """Why nothing may be sent; None, and the account is known, when it is the one that was meant."""
        if not answer.is_success:
            refusal = classify_refusal(answer, now=datetime.now(UTC), time_zone=self._time_zone)
            return refusal or Held(answer.summary())
        account = read_account(answer)
        if account is None:
            return Unavailable("HubSpot's account details are no JSON that names the portal")
        if (objection := objection_to(account, self._portal_id)) is not None:
            return Held(objection)
        self._account, self._time_zone = account, account.time_zone
        return None

    async def _wait(self, wait: timedelta) -> None:
        await asyncio.sleep(wait.total_seconds() * (1 + self._random.random()))


def _may_be_looked_at(upsert: ContactUpsert) -> bool:
    return bool(upsert.email) and upsert.key_property == upsert.catalog.key.name and not upsert.was_looked_at


def _is_doubtful(finding: Finding | None, shut: Throttled | Held | None) -> bool:
    """Whether it depends on the account's properties what becomes of an input."""
    if isinstance(shut, Held) and shut.is_of_properties:
        return isinstance(finding, Postponed | Unexplained)
    return isinstance(finding, Unexplained)


def _halves(upserts: Sequence[ContactUpsert]) -> tuple[Sequence[ContactUpsert], Sequence[ContactUpsert]]:
    middle = len(upserts) // 2
    return upserts[:middle], upserts[middle:]
