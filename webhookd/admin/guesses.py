"""Delays for peers that guess tokens."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable

_BURST = 20  # wrong tokens of one peer that are answered at once
_PEER_SECONDS = 1.0  # seconds of delay for each further wrong token of one peer
_BURST_OF_ALL = 200
_ALL_SECONDS = 0.05
_LONGEST_SECONDS = 5.0
_SUSPECTS = 1024  # peers that are remembered; a new peer replaces the peer that guessed longest ago
_PROVEN = 256  # peers with a right token that are remembered


class Guesses:
    """The delay of a request with a token, before the token is checked.

    A right token waits as long as a wrong one. If a right token were answered sooner, a guesser could hang up on every late
    answer. No request is refused because of other peers, so a right token always works, five seconds late at most. A guesser
    has one guess under way on each connection, and the listener bounds the connections. A peer that has sent a right token
    before waits only for its own wrong tokens.

    This is the generic cell rate algorithm. It keeps, for each peer and for all peers together, the time until which the
    guesses are paid for.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._suspects: OrderedDict[str, float] = OrderedDict()
        self._proven: OrderedDict[str, None] = OrderedDict()
        self._all = 0.0

    def charge(self, address: str | None) -> float:
        """Counts a token of a peer as a guess, and returns how many seconds the token must wait."""
        peer, now = _network(address), self._clock()
        paid = _charged(self._suspects.pop(peer, 0.0), now, _PEER_SECONDS, _BURST)
        self._suspects[peer] = paid
        while len(self._suspects) > _SUSPECTS:
            self._suspects.popitem(last=False)
        self._all = _charged(self._all, now, _ALL_SECONDS, _BURST_OF_ALL)
        wait = paid - _BURST * _PEER_SECONDS - now
        if peer not in self._proven:
            wait = max(wait, self._all - _BURST_OF_ALL * _ALL_SECONDS - now)
        return max(wait, 0.0)

    def prove(self, address: str | None) -> None:
        """Takes back the charge of a token that was right."""
        peer = _network(address)
        if peer in self._suspects:
            self._suspects[peer] -= _PEER_SECONDS
            if self._suspects[peer] <= self._clock():
                del self._suspects[peer]
        self._all -= _ALL_SECONDS
        self._proven.pop(peer, None)
        self._proven[peer] = None
        while len(self._proven) > _PROVEN:
            self._proven.popitem(last=False)


def _charged(paid: float, now: float, seconds: float, burst: int) -> float:
    return min(max(paid, now) + seconds, now + burst * seconds + _LONGEST_SECONDS)


def _network(address: str | None) -> str:
    """Returns the peer of an address. A peer in IPv6 is the whole /64, since one machine may have all of it."""
    if address is None or ":" not in address:
        return str(address)
    try:
        return str(ipaddress.ip_network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address
