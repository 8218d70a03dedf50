"""Guessing the charging network's key is slowed down and logged, and holds up nobody who has the key."""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from hubspot_sync.network import network_of

log = logging.getLogger(__name__)

# Of one network in a window. More would be guessed at, and fewer be reached by a charger that was set up wrongly.
WRONG_MAX = 5
# Short, because a charger whose key has just been mended waits for it too.
WINDOW_SECONDS = 60
# Chargers behind one address share their fate: one with an old key shall not hold up the others.
TRUST_SECONDS = 3600
# At about two hundred bytes each; the network that was seen longest ago is forgotten first.
NETWORKS_MAX = 10_000


@dataclass(slots=True)
class _Network:
    window_ends_at: float = 0.0
    wrong: int = 0
    trusted_until: float = 0.0


class WrongKeys:
    """One process's. `clock` gives seconds that only grow."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._networks: OrderedDict[str, _Network] = OrderedDict()

    def seconds_locked(self, address: str) -> int:
        """For how long no key from this address is looked at; 0 when it may try."""
        network, now = self._network(address), self._clock()
        if network.wrong < WRONG_MAX or now < network.trusted_until:
            return 0
        return max(0, math.ceil(network.window_ends_at - now))

    def note_right(self, address: str) -> None:
        self._network(address).trusted_until = self._clock() + TRUST_SECONDS

    def note_wrong(self, address: str) -> None:
        """Count it, and log the first ones of each window."""
        network, now = self._network(address), self._clock()
        if now >= network.window_ends_at:
            network.window_ends_at, network.wrong = now + WINDOW_SECONDS, 0
        network.wrong += 1
        if network.wrong <= WRONG_MAX:
            log.warning("A wrong X-Service-Key came from %s.", address or "an unknown address")

    def _network(self, address: str) -> _Network:
        name = network_of(address)
        network = self._networks.setdefault(name, _Network())
        self._networks.move_to_end(name)
        if len(self._networks) > NETWORKS_MAX:
            self._networks.popitem(last=False)
        return network
