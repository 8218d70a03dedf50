"""Whom a batch's answer names: by trace id or key, never by position, never by the absence of an error.

An error that names several inputs names none of them alone. A result is a confirmation only while nothing in the answer
speaks against it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from hubspot_sync.answer import BatchBody, ContactResult, ErrorDetail
from hubspot_sync.translation import ContactUpsert


@dataclass(frozen=True, slots=True)
class Naming:
    """Inputs by trace id. `doubted` says in words why the answer settles nothing of those, though it names them.

    `written` and `wrong` are named alone, each by what is said of it; `unnamed` errors name no input alone. `mentioned`
    are in results that name no contact.
    """

    written: dict[str, ContactResult]
    wrong: dict[str, ErrorDetail]
    doubted: dict[str, str]
    unnamed: list[ErrorDetail]
    mentioned: frozenset[str]


def read_names(body: BatchBody, upserts: Sequence[ContactUpsert]) -> Naming:
    inputs = _Inputs(upserts)
    wrong: dict[str, ErrorDetail] = {}
    doubted: dict[str, str] = {}
    unnamed = []
    for row in body.errors:
        match inputs.named_by(row.names):
            case [trace_id]:
                wrong.setdefault(trace_id, row.error)
            case several:
                unnamed.append(row.error)
                doubted |= dict.fromkeys(several, "has an error that names several inputs")
    results: defaultdict[str, list[ContactResult]] = defaultdict(list)
    for result in body.results:
        if (whose := inputs.written_by(result)) is not None:
            results[whose].append(result)
    for trace_id, found in results.items():
        if trace_id in wrong or trace_id in doubted:
            doubted[trace_id] = "names the input both as done and as wrong"
        elif len(found) > 1 and len({result.raw_id for result in found}) > 1:
            doubted[trace_id] = "names several contacts for the input"
        elif any(inputs.is_anothers(result, trace_id) for result in found):
            doubted[trace_id] = "names another's contact for the input"
    written = {trace_id: found[0] for trace_id, found in results.items() if trace_id not in doubted}
    # What an error says of one input stands, though another error names it among several; a result takes it back.
    doubted = {trace_id: why for trace_id, why in doubted.items() if trace_id in results or trace_id not in wrong}
    alone_wrong = {trace_id: wrong[trace_id] for trace_id in wrong.keys() - results.keys()}
    mentioned = frozenset(whose for one in body.incomplete if (whose := inputs.written_by(one)) is not None)
    return Naming(written, alone_wrong, doubted, unnamed, mentioned)


class _Inputs:
    """A request's inputs, found by what may name them."""

    def __init__(self, upserts: Sequence[ContactUpsert]) -> None:
        self._upserts = upserts
        self._by_trace_id = {upsert.trace_id: upsert for upsert in upserts}
        catalog = upserts[0].catalog
        self._our_id_property, self._email_property = catalog.key.name, catalog.email.name

    # Most answers name every input by its trace id, and nothing else is looked for.

    @cached_property
    def _by_value(self) -> dict[tuple[str, str], str]:
        """By property and value: our id, and the address that finds the contact or is given to it."""
        found = {(self._our_id_property, _our_id(upsert)): upsert.trace_id for upsert in self._upserts}
        for upsert in self._upserts:
            for address in (upsert.email, upsert.key if upsert.key_property == self._email_property else None):
                if address:
                    found[self._email_property, address] = upsert.trace_id
        return found

    @cached_property
    def _by_key(self) -> dict[str, str]:
        return {upsert.key: upsert.trace_id for upsert in self._upserts}

    @cached_property
    def _by_name(self) -> dict[str, str]:
        return {name: trace_id for (_, name), trace_id in self._by_value.items()}

    def named_by(self, names: Iterable[str]) -> list[str]:
        found = (name if name in self._by_trace_id else self._by_name.get(name) for name in names)
        return list(dict.fromkeys(trace_id for trace_id in found if trace_id is not None))

    def written_by(self, result: ContactResult) -> str | None:
        """By trace id; where that was not echoed, by our id or the address that was written, else by the id."""
        if result.trace_id:
            return result.trace_id if result.trace_id in self._by_trace_id else None
        for name in (self._our_id_property, self._email_property):
            if isinstance(written := result.properties.get(name), str):
                return self._by_value.get((name, written.strip()))
        return self._by_key.get(result.raw_id)

    def is_anothers(self, result: ContactResult, trace_id: str) -> bool:
        """Whether the contact has our id of somebody else. Its email may differ: ours may be a secondary address."""
        written = result.properties.get(self._our_id_property)
        ours = _our_id(self._by_trace_id[trace_id])
        if written == ours or not isinstance(written, str):
            return False
        return bool(written) and written.strip().casefold() != ours.casefold()


def _our_id(upsert: ContactUpsert) -> str:
    return upsert.properties[upsert.catalog.key.name]
