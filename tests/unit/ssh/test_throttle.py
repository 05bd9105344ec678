"""Wrong passwords cost more and more, up to a bound, and are forgotten."""

from muster.ssh.connection import MAX_PASSWORDS
from muster.ssh.gateway import LOGIN_SECONDS
from muster.ssh.throttle import LONGEST_SECONDS, FailedLogins


def test_whoever_goes_on_waits_longer_up_to_a_bound() -> None:
    failed = FailedLogins()
    assert [failed.note("c", "a", float(second)) for second in range(7)] == [2, 2, 2, 4, 8, 8, 8]
    assert failed.total == 7


def test_the_longest_waits_of_one_connection_fit_into_the_time_for_a_login() -> None:
    assert MAX_PASSWORDS * LONGEST_SECONDS < LOGIN_SECONDS


def test_others_and_other_containers_do_not_pay_for_it() -> None:
    failed = FailedLogins()
    for _ in range(10):
        failed.note("c", "a", 0.0)
    assert failed.note("c", "b", 0.0) == 2
    assert failed.note("d", "a", 0.0) == 2


def test_it_is_forgotten_after_a_while_and_by_a_login() -> None:
    failed = FailedLogins()
    for _ in range(10):
        failed.note("c", "a", 0.0)
    assert failed.note("c", "a", 601.0) == 2
    for _ in range(10):
        failed.note("c", "a", 602.0)
    failed.forget("c", "a")
    assert failed.note("c", "a", 603.0) == 2


def test_what_is_remembered_is_bounded() -> None:
    failed = FailedLogins()
    for number in range(20_000):
        failed.note("c", str(number), 0.0)
    assert len(failed._recent) == 10_000
