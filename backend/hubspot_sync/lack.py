"""What the account lacks of the properties that our events set: they are missing, or nobody may set them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_READ_ONLY = " (read-only)"


def words_of_missing(names: str) -> str:
    return f"the account lacks the properties {names}: run `provision` to create them."


def words_of_read_only(names: str) -> str:
    return (
        f"the properties {names} are read-only in the account: delete or rename them in HubSpot, then run `provision`."
    )


def words_of_not_unique(name: str) -> str:
    return (
        f"the account's property {name} is missing or is not unique, so contacts cannot be found by it: "
        "run `provision`, which creates it or says what to do."
    )


@dataclass(frozen=True, slots=True)
class Lack:
    """`key_trouble` says in words why contacts cannot be found by their keys, which concerns every event."""

    missing: frozenset[str] = frozenset()
    read_only: frozenset[str] = frozenset()
    key_trouble: str | None = None

    @property
    def names(self) -> frozenset[str]:
        return self.missing | self.read_only

    def of(self, names: Iterable[str]) -> Lack:
        """As far as it concerns these properties."""
        chosen = frozenset(names)
        return Lack(self.missing & chosen, self.read_only & chosen)

    @property
    def key(self) -> str:
        """Names it, for whoever waits until it is no more; see `names_in`."""
        return ", ".join(sorted([*self.missing, *(f"{name}{_READ_ONLY}" for name in self.read_only)]))

    @property
    def reason(self) -> str:
        parts = []
        if self.missing:
            parts.append(words_of_missing(", ".join(sorted(self.missing))))
        if self.read_only:
            parts.append(words_of_read_only(", ".join(sorted(self.read_only))))
        return " ".join(parts)


def names_in(key: str) -> list[str]:
    """The properties that a lack's key names."""
    return [name.removesuffix(_READ_ONLY) for name in key.split(", ")]
