"""The tokens of a peer that guesses wait before they are checked, and no wait is longer than five seconds."""

from __future__ import annotations

from webhookd.admin import guesses as module
from webhookd.admin.guesses import Guesses

MALLORY, ANN = "192.0.2.1", "198.51.100.7"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_few_wrong_tokens_are_answered_at_once_and_further_ones_one_a_second() -> None:
    clock = Clock()
    guesses = Guesses(clock)
    assert [guesses.charge(MALLORY) for _ in range(24)] == [0.0] * 20 + [1.0, 2.0, 3.0, 4.0]
    clock.now += 4.0
    assert guesses.charge(MALLORY) == 1.0


def test_no_wait_is_longer_than_five_seconds_however_many_guess() -> None:
    guesses = Guesses(Clock())
    assert max(guesses.charge(MALLORY) for _ in range(10_000)) == 5.0
    assert max(guesses.charge(f"10.0.{number // 250}.{number % 250}") for number in range(10_000)) == 5.0


def test_peers_that_sent_a_right_token_wait_for_no_others_guesses() -> None:
    guesses = Guesses(Clock())
    assert guesses.charge(ANN) == 0.0
    guesses.prove(ANN)
    for number in range(5000):
        guesses.charge(f"10.0.{number // 250}.{number % 250}")
    assert guesses.charge("203.0.113.9") == 5.0
    assert guesses.charge(ANN) == 0.0


def test_right_tokens_never_make_a_peer_wait() -> None:
    guesses = Guesses(Clock())
    for _ in range(1000):
        assert guesses.charge(ANN) == 0.0
        guesses.prove(ANN)
    assert not guesses._suspects


def test_the_tables_of_peers_have_a_bound() -> None:
    guesses = Guesses(Clock())
    for number in range(5000):
        guesses.charge(f"2001:db8:{number:x}::1")
        if number % 2:
            guesses.prove(f"2001:db8:{number:x}::1")
    assert len(guesses._suspects) <= module._SUSPECTS
    assert len(guesses._proven) <= module._PROVEN


def test_the_addresses_of_one_ipv6_network_are_one_peer() -> None:
    guesses = Guesses(Clock())
    waits = [guesses.charge(f"2001:db8::{number:x}") for number in range(1, 22)]
    assert waits[-1] == 1.0
    assert guesses.charge("2001:db8:0:1::1") == 0.0
    assert guesses.charge("fe80::1%eth0") == 0.0
    assert guesses.charge(None) == 0.0
