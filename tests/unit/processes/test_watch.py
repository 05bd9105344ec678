"""What ``muster watch`` is built of: which registries it takes, what it tells, and what it needs."""

import datetime
import logging
import subprocess
import sys

import pytest

from muster.errors import SetupError
from muster.model.endpoint import Endpoint, EndpointSet, ServiceKey, Withheld
from muster.model.url import shown
from muster.processes.watch import Watched, open_registry
from muster.processes.watch_log import OnceAMinute, PublishLog

NOW = datetime.datetime(2026, 3, 2, tzinfo=datetime.UTC)
ASR = ServiceKey("admin", "62d82c07cd")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("memory://here", "ends with this process"),
        ("muster+https://muster.test", "nobody else's"),
        ("file://relative", "three slashes"),
        ("redi://user:passw0rd@host", "'redi://host' is no registry URL"),
        ("file://user:passw0rd@host/folder", "is no registry URL; write file:///"),
        ("etcd://user:passw0rd@host/path", "has no path"),
        ("etcd://user:passw0rd@[host", "'etcd://[host' is no URL"),
        ("redis", "'redis' is no registry URL"),
    ],
)
def test_a_registry_that_others_cannot_read_is_refused_with_what_would_be_right(url: str, words: str) -> None:
    with pytest.raises(SetupError, match=r"^--registry: ") as raised:
        open_registry(url)
    assert words in str(raised.value)
    assert "passw0rd" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_is_shown_of_a_registry_and_of_the_settings_holds_no_secret() -> None:
    assert shown("etcds://user:passw0rd@one,two:2379?key=/etc/key") == "etcds://one,two:2379"
    assert shown("file:///srv/registry") == "file:///srv/registry"
    told = repr(Watched("https://api.test", "t0ken", "redis://user:passw0rd@host"))
    assert "t0ken" not in told
    assert "passw0rd" not in told


def record(level: int, text: str, *args: object, name: str = "muster") -> logging.LogRecord:
    return logging.LogRecord(name, level, __file__, 1, text, args, None)


def test_a_warning_is_told_once_a_minute_whatever_numbers_are_in_it() -> None:
    now = [0.0]
    only = OnceAMinute(lambda: now[0])
    assert only.filter(record(logging.WARNING, "try again: %s", "lost (asked again in 12 s)"))
    for now[0] in (1.0, 30.0, 59.9):
        assert not only.filter(record(logging.WARNING, "try again: %s", "lost (asked again in 3 s)"))
        assert not only.filter(record(logging.WARNING, "try again: %s", "lost"))
        assert only.filter(record(logging.INFO, "published"))
    assert only.filter(record(logging.WARNING, "try again: %s", "refused")), "another one"
    now[0] = 60.0
    assert only.filter(record(logging.WARNING, "try again: %s", "lost"))


def published(*ids: str, revision: int = 1, withheld: int = 0) -> EndpointSet:
    waiting = tuple(Withheld(f"w{each}", "not_ready") for each in range(withheld))
    endpoints = tuple(Endpoint(each, f"http://{each}.test") for each in ids)
    return EndpointSet(7, revision, endpoints, published_at=NOW, withheld=waiting)


def test_each_published_change_is_one_line_with_who_came_and_who_went(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = PublishLog()
    log.note(ASR, published("a", "b"), "asr")
    log.note(ASR, published("b", "c", revision=2, withheld=1), "asr")
    log.note(ASR, published("b", "c", revision=3), "")
    log.note(ASR, published("c", "w0", revision=4), "asr")
    log.note(ASR, published(revision=5, withheld=1), "a\nsr")
    assert caplog.messages == [
        "asr (62d82c07cd) port 6006: +a +b (2 ready; revision 7.1)",
        "asr (62d82c07cd) port 6006: +c -a (2 ready, 1 withheld; revision 7.2)",
        "62d82c07cd port 6006: the same endpoints (2 ready; revision 7.3)",
        "asr (62d82c07cd) port 6006: +w0 -b (2 ready; revision 7.4)",
        "a\\nsr (62d82c07cd) port 6006: -c -w0 (not ready) (0 ready, 1 withheld; revision 7.5)",
    ]


def test_many_changes_at_once_are_still_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    PublishLog().note(ASR, published(*(f"c{each:02}" for each in range(30))), "asr")
    (line,) = caplog.messages
    assert "+c00 " in line
    assert "+22 more (30 ready" in line


def test_who_takes_over_tells_only_what_is_different_and_of_unused_ports_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    log = PublishLog()
    log.note(ServiceKey("admin", "62d82c07cd", 6008), published(), "asr")
    assert caplog.messages == []
    log.take_over(ASR, published("a", "b"))
    log.note(ASR, published("a", "b"), "asr")
    log.take_over(ASR, published("a", "b"))
    log.note(ASR, published("b", "c"), "asr")
    assert caplog.messages == [
        "asr (62d82c07cd) port 6006: taken over (2 ready; revision 7.1)",
        "asr (62d82c07cd) port 6006: +c -a (2 ready; revision 7.1)",
    ]


@pytest.mark.parametrize("registry", ["file:///tmp/none", "redis://127.0.0.1:1", "etcd://127.0.0.1:1"])
def test_the_command_needs_none_of_the_servers_libraries(registry: str) -> None:
    script = f"""
import sys
for name in ("fastapi", "starlette", "uvicorn", "uvloop", "sqlalchemy", "alembic", "aiodocker", "asyncssh", "psutil"):
    sys.modules[name] = None  # importing it fails
import muster.cli.watch, muster.processes.watch as watch
watch.open_registry({registry!r})
ours = ("store", "engine", "controller", "api", "ingress", "planner", "scheduler")
print(sorted(each for each in ours if f"muster.{{each}}" in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
