"""Contacts that a claim's delivery has to look at are read in slots, like any delivery's requests."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from hubspot_sync.account_gate import AccountGate
from hubspot_sync.addressing import Found
from hubspot_sync.classification import UNREAD, Held, Throttled, Unavailable, objection_to_read
from hubspot_sync.errors import NoAnswer
from hubspot_sync.target_account import TargetAccount
from hubspot_sync.translation import ContactUpsert, halves_of
from sqlalchemy_outbox.gate.gate import GateShut
from sqlalchemy_outbox.gate.row import Permit
from sqlalchemy_outbox.lease import Lease


class ContactReads:
    """Reads contacts under one claim's lease."""

    def __init__(self, account: TargetAccount, gate: AccountGate, lease: Lease) -> None:
        self._account = account
        self._gate = gate
        self._lease = lease

    async def read(self, key_property: str, upserts: Sequence[ContactUpsert], properties: Sequence[str]) -> Found:
        """The contacts that the upserts' values lead to; raises GateShut where nobody's can be read.

        What goes wrong with one contact is its own upsert's matter.
        """
        found = Found()
        for upserts_max, some in self._account.read_detector.by_size(upserts):
            for start in range(0, len(some), upserts_max):
                found = found.and_also(await self._read(key_property, some[start : start + upserts_max], properties))
        return found

    async def _read(self, key_property: str, upserts: Sequence[ContactUpsert], properties: Sequence[str]) -> Found:
        permit = await self._gate.enter(self._lease)
        keys = list(dict.fromkeys(upsert.properties[key_property] for upsert in upserts))
        try:
            answer = await self._account.client.read_contacts(key_property, keys, properties)
        except NoAnswer as error:
            return await self._bear_no_answer(Unavailable(str(error)), upserts, permit)
        await self._gate.keep_limits(answer)
        judge = partial(objection_to_read, answer, now=datetime.now(UTC), time_zone=self._account.time_zone)
        match await asyncio.to_thread(judge) if answer.is_large else judge():
            case Unavailable() as verdict:
                return await self._bear_no_answer(verdict, upserts, permit)
            case Throttled() | Held() as verdict:
                await self._gate.shut(verdict, permit)
                raise GateShut(await self._gate.gate.refresh())
            case objection:
                self._account.read_detector.note_answer(upserts)
                await self._gate.gate.record_success(permit)
        if objection is None:
            body = answer.batch()
            return Found(() if body is None else body.results)
        if len(upserts) == 1:
            return Found(unread={upserts[0].subject: objection})
        first, second = halves_of(upserts)
        found = await self._read(key_property, first, properties)
        return found.and_also(await self._read(key_property, second, properties))

    async def _bear_no_answer(self, verdict: Unavailable, upserts: Sequence[ContactUpsert], permit: Permit) -> Found:
        """As with an upsert, only that nothing can have been applied."""
        suspicion = self._account.read_detector.note_no_answer(upserts)
        outcome = await self._gate.bear(replace(verdict, reason=f"{UNREAD}{verdict.reason}"), suspicion, permit)
        return Found(unread={upsert.subject: outcome for upsert in upserts})
