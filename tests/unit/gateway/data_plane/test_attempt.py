"""The rules about answers and breaks agree with those of the SDK, and what is kept of a body goes again as it came."""

import httpx
import pytest

from muster.balancer.call import outcome_of_answer
from muster.balancer.lease import Outcome
from muster.balancer.options import Options
from muster.gateway.attempt import Attempts, Break
from muster.gateway.upload import Upload
from muster.http1.request_head import RequestHead, read_request
from muster.http1.response_head import ResponseHead, read_response


def a_head(status: int, *fields: tuple[bytes, bytes]) -> ResponseHead:
    return read_response(b"HTTP/1.1 %d X" % status, list(fields), b"GET", 1000)


def a_request(*fields: tuple[bytes, bytes]) -> RequestHead:
    return read_request(b"POST / HTTP/1.1", [(b"Host", b"a"), *fields])


def yes() -> bool:
    return True


@pytest.mark.parametrize("retry_after", [(), ((b"Retry-After", b"1"),)])
def test_answers_mean_what_they_mean_to_the_sdk(retry_after: tuple[tuple[bytes, bytes], ...]) -> None:
    for status in range(200, 600):
        response = httpx.Response(status, headers=list(retry_after))
        attempts = Attempts(b"POST", Options())
        assert attempts.answered("r0", a_head(status, *retry_after)) is outcome_of_answer(response), status
        assert not attempts.may_go_again(yes, is_in_time=True)


@pytest.mark.parametrize(
    ("status", "field", "outcome", "may_post_again"),
    [
        (503, (b"X-Muster-Refused", b"draining"), Outcome.CLOSED, True),
        (503, (b"X-Muster-Refused", b"over_capacity"), Outcome.FULL, True),
        (503, (b"X-Muster-Refused", b"unreachable"), Outcome.UNREACHABLE, True),
        (200, (b"X-Muster-Refused", b"draining"), Outcome.OK, False),
        (502, (b"X-Muster-Error", b"closed"), Outcome.ERROR, False),
        (504, (b"X-Muster-Error", b"late"), Outcome.TIMED_OUT, False),
        (500, (b"X-Muster-Error", b"closed"), Outcome.ERROR, False),
    ],
)
def test_what_an_ingress_says_of_itself(
    status: int, field: tuple[bytes, bytes], outcome: Outcome, may_post_again: bool
) -> None:
    attempts = Attempts(b"POST", Options())
    assert attempts.answered("r0", a_head(status, field)) is outcome
    assert attempts.may_go_again(yes, is_in_time=True) is may_post_again


@pytest.mark.parametrize(
    ("method", "said", "may"),
    [(b"GET", None, True), (b"PUT", None, False), (b"POST", True, True), (b"GET", False, False)],
)
def test_only_what_is_idempotent_goes_again_after_a_break(method: bytes, said: bool | None, may: bool) -> None:
    attempts = Attempts(method, Options(is_idempotent=said))
    assert attempts.broke("r0", Break.BROKEN) is Outcome.ERROR
    assert attempts.may_go_again(yes, is_in_time=True) is may


def test_going_again_ends_with_the_count_the_budget_and_the_time() -> None:
    attempts = Attempts(b"GET", Options(resends=1))
    attempts.broke("r0", Break.BROKEN)
    assert not attempts.may_go_again(lambda: False, is_in_time=True)
    assert not attempts.may_go_again(yes, is_in_time=False)
    assert attempts.may_go_again(yes, is_in_time=True)
    assert not attempts.may_go_again(yes, is_in_time=True)
    attempts.broke("r0", Break.UNREACHABLE)
    assert attempts.may_go_again(lambda: False, is_in_time=False)


def test_whoever_cannot_connect_twice_pauses_longer_each_time() -> None:
    attempts = Attempts(b"GET", Options())
    pauses = []
    for _ in range(9):
        attempts.broke("r0", Break.UNREACHABLE)
        pauses.append(attempts.pause_seconds(1.0))
    assert pauses[:4] == [0.0, 0.01, 0.02, 0.04]
    assert pauses[-1] == 0.2


@pytest.mark.parametrize("cut", range(1, 30))
def test_a_chunked_body_that_goes_again_is_whole(cut: int) -> None:
    sent = b"3\r\nhel\r\n2\r\nlo\r\n0\r\nX-Sum: 7\r\n\r\nnext"
    upload = Upload(a_request((b"Transfer-Encoding", b"chunked")), 100, 1000)
    used, _ = upload.take(sent[:cut])
    used += upload.take(sent[used:])[0]
    assert sent[used:] == b"next"
    assert upload.is_complete
    assert b"".join(upload.so_far()) == b"5\r\nhello\r\n0\r\nX-Sum: 7\r\n\r\n"
    assert (upload.kept, upload.size_bytes) == (b"hello", 5)


def test_what_is_larger_than_may_be_kept_is_not() -> None:
    upload = Upload(a_request((b"Content-Length", b"9")), 5, 1000)
    found = [(upload.take(data), upload.is_kept, upload.is_complete) for data in (b"12345", b"6789+")]
    assert found == [((5, [b"12345"]), True, False), ((4, [b"6789"]), False, True)]


def test_a_length_tells_at_once_that_a_body_is_too_large() -> None:
    upload = Upload(a_request((b"Content-Length", b"9")), 5, 1000)
    found = []
    for most_bytes in (8, 9, None):
        upload.most_bytes = most_bytes
        found.append(upload.is_too_large)
    assert found == [True, False, False]
