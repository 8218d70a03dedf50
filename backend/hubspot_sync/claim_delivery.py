"""One claim's delivery: its inputs are sent, and what HubSpot answers becomes outcomes and the gate's state."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import assert_never

from hubspot_sync.account_gate import AccountGate
from hubspot_sync.addressing import holders, judge_moves
from hubspot_sync.claim_progress import ClaimProgress
from hubspot_sync.classification import (
    CONFLICT_WAIT,
    Blocked,
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
    classify_refusal,
)
from hubspot_sync.contact_reads import ContactReads
from hubspot_sync.erasure import ContactErasures
from hubspot_sync.errors import NoAnswer, Refused
from hubspot_sync.identity import give_way, resolve
from hubspot_sync.target_account import TargetAccount
from hubspot_sync.translation import ContactUpsert, halves_of, requests
from hubspot_sync.upsert_request import ask_to_upsert
from sqlalchemy_outbox.destination import Claim
from sqlalchemy_outbox.gate.gate import GateShut, LeaseEnding
from sqlalchemy_outbox.gate.row import Permit
from sqlalchemy_outbox.model import ERASURE
from sqlalchemy_outbox.outcome import Outcome, Postponed, Rejected, Retry

log = logging.getLogger(__name__)

# The number of inputs that are refused alone, and none got through, before it may not be the inputs.
SUSPECTS_MAX = 3
# The most of the others that are then tried alone, from all over the claim, before everything is held.
_OTHERS_TRIED_MAX = 5


class ClaimDelivery:
    """Sends one claim's inputs, under its lease, through the gate; `progress` is how far it has come."""

    def __init__(self, account: TargetAccount, gate: AccountGate, claim: Claim, progress: ClaimProgress) -> None:
        self._account = account
        self._gate = gate
        self._claim = claim
        self._progress = progress
        self._reads = ContactReads(account, gate, claim.lease)

    async def carry_out(self) -> Mapping[int, Outcome]:
        """Send what may be sent, and return each event's outcome; what is left when the gate shuts goes back."""
        progress = self._progress
        try:
            await self._account.properties.set_apart_known(progress, self._gate.gate)
            await self._judge_moves()
            while heads := progress.heads():
                if contested := [upsert for upsert in heads if upsert.contested is not None]:
                    await self._look_at_holders(contested)
                    continue
                if any(upsert.is_waiting for upsert in heads):
                    await self._wait(CONFLICT_WAIT)
                for inputs_max, some in self._account.detector.by_size(heads):
                    for upserts in requests(some, inputs_max):
                        await self._send(upserts)
                await self._judge_suspects()
            await self._erase_forgotten()
        except (GateShut, LeaseEnding):
            log.debug("The rest of the claim is handed back.")
        return progress.outcomes

    async def _erase_forgotten(self) -> None:
        erasures = ContactErasures(self._account.client, self._account.catalog, self._gate.ask_for_one)
        for event in self._claim.events:
            if event.event_type == ERASURE:
                self._progress.note_outcome(event, await erasures.erase(event, self._claim))

    async def _judge_moves(self) -> None:
        moving = [upsert for upsert in self._progress.heads() if upsert.is_moving]
        if not moving:
            return
        judged = await judge_moves(moving, self._claim, self._reads.read)
        for upsert, changed in zip(moving, judged, strict=True):
            if not isinstance(changed, ContactUpsert):
                self._progress.conclude(upsert, changed)
            elif changed.says_anything:
                self._progress.replace(upsert, changed)
            else:
                # Sent all the same, it would make a contact where there is none.
                self._progress.deliver(changed)

    async def _look_at_all(self, finding: Finding, upserts: Sequence[ContactUpsert]) -> bool:
        """See who has the addresses of a request that was refused for one of them; false when that leads nowhere."""
        if not isinstance(finding, Contested):
            return False
        contested = [replace(upsert, contested=finding) for upsert in upserts if _may_be_looked_at(upsert)]
        return bool(contested) and await self._look_at_holders(contested)

    async def _look_at_holders(self, upserts: Sequence[ContactUpsert]) -> bool:
        """See whose contacts have the addresses that these upserts claim; what follows comes in their place.

        False when nobody has any of them.
        """
        found, unread = await holders(self._reads.read, upserts)
        for upsert in upserts:
            if (outcome := unread.get(upsert.subject)) is not None:
                self._progress.conclude(upsert, outcome)
                continue
            step = give_way(replace(upsert, was_looked_at=True), found.get(upsert.email or ""))
            if isinstance(step, Rejected):
                self._conclude(replace(upsert, contested=None), step)
            else:
                self._progress.replace(upsert, step)
        return bool(found)

    async def _send(self, upserts: Sequence[ContactUpsert], *, is_repeat: bool = False) -> bool:
        """Send one request, and smaller ones in its place when it was refused as a whole; true when it was not."""
        upserts = [upsert for upsert in upserts if self._progress.is_next(upsert)]
        if not upserts:
            return True
        permit = await self._gate.enter(self._claim.lease)
        verdict = await self._ask(upserts)
        match verdict:
            case Settled():
                await self._settle(verdict, upserts, permit)
                return True
            case RefusedWhole():
                await self._succeeded(upserts, permit)
                if isinstance(verdict.finding, Unexplained) and await self._set_apart_unnamed(upserts):
                    return await self._send(upserts, is_repeat=is_repeat)
                await self._single_out(verdict, upserts, is_repeat=is_repeat)
            case Unavailable():
                await self._bear_no_answer(verdict, upserts, permit)
            case Held() if verdict.is_of_properties:
                if (refusal := await self._find_lack(verdict, upserts)) is not None:
                    self._progress.hand_back(upserts)
                    await self._gate.shut(refusal, permit)
                    return False
                await self._succeeded(upserts, permit)
                return await self._send(upserts, is_repeat=is_repeat)
            case Throttled() | Held():
                self._progress.hand_back(upserts)
                await self._gate.shut(verdict, permit)
            case _:
                assert_never(verdict)
        return False

    async def _ask(self, upserts: Sequence[ContactUpsert]) -> Verdict:
        answer, verdict, record = await ask_to_upsert(self._account, upserts)
        self._claim.note(record)
        if answer is not None:
            await self._gate.keep_limits(answer)
        return verdict

    async def _settle(self, settled: Settled, upserts: Sequence[ContactUpsert], permit: Permit) -> None:
        doubtful: list[ContactUpsert] = []
        certain: list[ContactUpsert] = []
        for upsert in upserts:
            is_doubtful = _is_doubtful(settled.findings.get(upsert.trace_id), settled.shut)
            (doubtful if is_doubtful else certain).append(upsert)
        self._conclude_each(certain, settled)
        refusal: Refusal | None = settled.shut
        if isinstance(refusal, Held) and refusal.is_of_properties:
            refusal = await self._find_lack(refusal, doubtful)
        elif doubtful:
            await self._set_apart_unnamed(doubtful)
            # What the list does not explain either is wrong in itself.
            self._conclude_each([upsert for upsert in doubtful if self._progress.is_next(upsert)], settled)
        if refusal is not None:
            self._progress.hand_back(doubtful)
            await self._gate.shut(refusal, permit)
            return
        await self._succeeded(upserts, permit)
        self._progress.has_accepted |= any(isinstance(finding, Written) for finding in settled.findings.values())
        # Of fewer inputs the answer is shorter, and among them it shows whose its errors are.
        unsettled = [upsert for upsert in upserts if self._progress.is_next(upsert)]
        self._progress.leave_in_doubt(unsettled)
        for half in halves_of(unsettled):
            if half:
                await self._send(half)

    def _conclude_each(self, upserts: Sequence[ContactUpsert], settled: Settled) -> None:
        for upsert in upserts:
            if (finding := settled.findings.get(upsert.trace_id)) is not None:
                self._conclude(upsert, finding)

    async def _set_apart_unnamed(self, upserts: Sequence[ContactUpsert]) -> bool:
        return await self._account.properties.set_apart_unnamed(upserts, self._progress, self._gate.gate)

    async def _find_lack(self, held: Held, upserts: Sequence[ContactUpsert]) -> Refusal | None:
        """Set apart what sets properties that the account lacks; or return why all have to wait.

        HubSpot may name any number of them, or none: the list of properties says it. Where that contradicts HubSpot,
        the request is worth a repeat, as they may just have been provisioned.
        """
        progress = self._progress
        try:
            lack = await self._account.properties.look(self._gate.gate, time.monotonic())
        except NoAnswer as error:
            return Unavailable(str(error))
        except Refused as refused:
            refusal = classify_refusal(refused.answer, now=datetime.now(UTC), time_zone=self._account.time_zone)
            return refusal if isinstance(refusal, Throttled | Unavailable) else Held(held.reason)
        if lack.key_trouble is not None:
            return Held(lack.key_trouble)
        concerned = [upsert for upsert in upserts if lack.names & upsert.properties.keys()]
        progress.set_apart(lack)
        if concerned or not progress.has_doubted_hubspot:
            progress.has_doubted_hubspot |= not concerned
            return None
        return Held(held.reason)

    async def _single_out(self, refusal: RefusedWhole, upserts: Sequence[ContactUpsert], *, is_repeat: bool) -> None:
        """Find the guilty input of a refused request: repeat what may pass by itself, then divide."""
        has_repeated = is_repeat or any(upsert.conflicts for upsert in upserts)
        if refusal.repeat_after is not None and not has_repeated:
            await self._wait(refusal.repeat_after)
            await self._send(upserts, is_repeat=True)
        elif len(upserts) > 1:
            # One look at all addresses may find whose it is.
            if not await self._look_at_all(refusal.finding, upserts):
                await self._divide(refusal, self._progress.next_of(upserts))
        elif refusal.suspicion is not None and not self._progress.has_accepted:
            self._progress.suspect(upserts[0], refusal)
            if len(self._progress.suspects) == SUSPECTS_MAX:
                await self._try_others()
                await self._judge_suspects()
        else:
            has_waited = is_repeat and refusal.repeat_after is not None
            self._conclude(upserts[0], refusal.finding, has_waited=has_waited)

    async def _divide(self, refusal: RefusedWhole, upserts: Sequence[ContactUpsert]) -> None:
        first, second = halves_of(upserts)
        was_accepted = await self._send(first, is_repeat=True)
        if was_accepted and not refusal.is_of_all and len(second) > 1:
            # The guilty one is in the second half, which would be refused like the whole.
            await self._divide(refusal, second)
        else:
            await self._send(second, is_repeat=True)

    async def _try_others(self) -> None:
        """Send some inputs alone until one gets through; after a hold others than before."""
        others = self._progress.unsuspected()
        first, count = self._account.rounds_of_others, min(len(others), _OTHERS_TRIED_MAX)
        self._account.rounds_of_others += 1
        for number in range(count):
            if self._progress.has_accepted:
                return
            await self._send([others[(first + number * len(others) // count) % len(others)]])

    async def _judge_suspects(self) -> None:
        """What was refused alone is guilty if anything else got through; else all requests are refused."""
        for upsert, refusal in self._progress.take_suspects():
            if self._progress.has_accepted or refusal.suspicion is None:
                self._conclude(upsert, refusal.finding)
            else:
                await self._gate.shut(refusal.suspicion)
                raise GateShut(await self._gate.gate.refresh())

    def _conclude(self, upsert: ContactUpsert, finding: Finding, *, has_waited: bool = False) -> None:
        """The finding becomes the outcome of the input's events, or other inputs in its place."""
        match finding:
            case Written(record_id):
                self._account.contacts.note(upsert.subject, record_id)
                self._progress.deliver(upsert, record_id)
            case Contested():
                step = resolve(upsert.after_waiting() if has_waited else upsert, finding)
                if isinstance(step, Rejected):
                    self._conclude(upsert, step)
                else:
                    self._progress.replace(upsert, step)
            case Blocked() if upsert.email:
                self._say_blocked(upsert)
                self._progress.replace(upsert, upsert.by_our_id().without_email())
            case Rejected() if len(upsert.events) > 1:
                # Who of several merged ones is guilty shows when they travel apart.
                self._progress.replace(upsert, *upsert.halves())
            case Rejected() | Retry() | Postponed():
                self._progress.conclude(upsert, finding)
            case _:
                assert_never(finding)

    def _say_blocked(self, upsert: ContactUpsert) -> None:
        """Once for each subject that this process remembers: each event that gives the address again meets the same."""
        if self._account.blocked.record_of(upsert.subject) is None:
            self._account.blocked.note(upsert.subject, "blocked")
            log.warning(
                "The contact of %s gets no email in HubSpot: its address is of somebody who was erased there, and is "
                "never taken again.",
                upsert.subject,
                extra={"subject": upsert.subject},
            )

    async def _bear_no_answer(self, verdict: Unavailable, upserts: Sequence[ContactUpsert], permit: Permit) -> None:
        """It is HubSpot's day, for which nobody is charged; or, if all others are answered, the one input's doing."""
        self._progress.leave_in_doubt(upserts)
        outcome = await self._gate.bear(verdict, self._account.detector.note_no_answer(upserts), permit)
        for upsert in upserts:
            self._progress.conclude(upsert, outcome)

    async def _succeeded(self, upserts: Sequence[ContactUpsert], permit: Permit) -> None:
        """HubSpot answered this request for itself, whatever it said of the inputs."""
        self._account.detector.note_answer(upserts)
        await self._gate.succeeded(permit)

    async def _wait(self, wait: timedelta) -> None:
        await asyncio.sleep(wait.total_seconds() * (1 + self._account.random.random()))


def _may_be_looked_at(upsert: ContactUpsert) -> bool:
    return bool(upsert.email) and upsert.key_property == upsert.catalog.key.name and not upsert.was_looked_at


def _is_doubtful(finding: Finding | None, shut: Throttled | Held | None) -> bool:
    """Whether it depends on the account's properties what becomes of an input."""
    if isinstance(shut, Held) and shut.is_of_properties:
        return isinstance(finding, Postponed | Unexplained)
    return isinstance(finding, Unexplained)
