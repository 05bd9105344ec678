"""What is told of a fetch: why it failed, what to do about it, how far it is."""

from typing import Any

import pytest

from muster.engine.docker.pull_words import RETRIED, Kind, Progress, explain, is_about_docker, kind_of
from muster.model.image import Credential
from muster.model.reference import parse

ASR = parse("lab:5000/team/asr:1")
MB = 1_000_000


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("manifest for lab:5000/team/asr:1 not found: manifest unknown: manifest unknown", Kind.NOT_FOUND),
        ("repository team/asr not found: name unknown: repository name not known to registry", Kind.NOT_FOUND),
        ('Head "http://lab:5000/v2/team/asr/manifests/1": no basic auth credentials', Kind.DENIED),
        ("unauthorized: authentication required", Kind.DENIED),
        (
            "pull access denied for team/asr, repository does not exist or may require 'docker login': denied: no",
            Kind.DENIED,
        ),
        ("Error response from daemon: error parsing HTTP 403 response body: 403 Forbidden", Kind.DENIED),
        ("write /var/lib/docker/tmp/GetImageBlob12: no space left on device", Kind.NO_SPACE),
        ("failed to register layer: Error processing tar file(exit status 1): disk quota exceeded", Kind.NO_SPACE),
        ('Get "http://127.0.0.1:1/v2/": dial tcp 127.0.0.1:1: connect: connection refused', Kind.UNREACHABLE),
        ('Get "https://lab:5000/v2/": dial tcp: lookup lab on 10.0.0.53:53: no such host', Kind.UNREACHABLE),
        ('Get "https://lab:5000/v2/": net/http: request canceled (Client.Timeout exceeded)', Kind.UNREACHABLE),
        ('Get "https://lab:5000/v2/": net/http: TLS handshake timeout', Kind.UNREACHABLE),
        ("received unexpected HTTP status: 503 Service Unavailable", Kind.UNREACHABLE),
        ("unexpected EOF", Kind.UNREACHABLE),
        ("toomanyrequests: You have reached your pull rate limit.", Kind.BUSY),
        ('Get "https://lab:5000/v2/": http: server gave HTTP response to HTTPS client', Kind.UNTRUSTED),
        ('Get "https://lab:5000/v2/": x509: certificate signed by unknown authority', Kind.UNTRUSTED),
        ("no matching manifest for linux/arm64/v8 in the manifest list entries", Kind.OTHER_PROCESSOR),
        ("missing signature key", Kind.FAILED),
    ],
)
def test_refusals_are_told_apart(said: str, kind: Kind) -> None:
    assert kind_of(said, ASR) is kind


@pytest.mark.parametrize("name", ["denied/timeout", "lab:5000/unauthorized", "team/no-such-host/eof"])
def test_the_name_of_an_image_says_nothing_about_why_it_failed(name: str) -> None:
    reference = parse(f"{name}:1")
    said = f'manifest for {name}:1 not found: Get "https://x/v2/{reference.path}/manifests/1": manifest unknown'
    assert kind_of(said, reference) is Kind.NOT_FOUND


def test_only_what_passes_by_itself_is_tried_again() -> None:
    assert frozenset({Kind.BUSY, Kind.UNREACHABLE}) == RETRIED


@pytest.mark.parametrize("kind", Kind)
def test_every_refusal_names_the_image_and_keeps_what_docker_said(kind: Kind) -> None:
    words = explain(kind, "so says Docker\n", ASR)
    assert words.startswith("lab:5000/team/asr:1: ")
    assert words.endswith("(so says Docker)")
    assert "{" not in words


def test_a_denial_says_how_to_log_in_and_who_was_refused() -> None:
    assert "the registry refuses it:" in explain(Kind.DENIED, "", ASR)
    words = explain(Kind.DENIED, "", ASR, Credential("ann", "hunter2"))
    assert "the registry refuses it to ann: check the name" in words
    assert "`muster image login lab:5000`" in words
    assert "hunter2" not in words


def test_a_daemon_that_goes_away_is_not_taken_for_a_registry_that_refuses() -> None:
    assert is_about_docker("context canceled")
    assert is_about_docker("connection error: desc = error while dialing: dial unix /run/containerd/containerd.sock")
    assert not is_about_docker('Get "http://127.0.0.1:1/v2/": dial tcp 127.0.0.1:1: connect: connection refused')


def layer(name: str, status: str, current: int = 0, total: int = 0) -> dict[str, Any]:
    detail = {"current": current, "total": total} if total else {}
    return {"id": name, "status": status, "progressDetail": detail}


def test_progress_is_told_in_tenths_of_all_layers_that_are_known() -> None:
    progress = Progress(ASR)
    told = [progress.text]
    messages = [
        {"status": "Pulling from team/asr", "id": "1"},
        layer("base", "Already exists"),
        layer("a", "Pulling fs layer"),
        layer("b", "Pulling fs layer"),
        *(layer("a", "Downloading", part * MB, 100 * MB) for part in range(101)),
        layer("a", "Verifying Checksum"),
        layer("a", "Download complete"),
        *(layer("b", "Downloading", part * MB, 100 * MB) for part in range(100)),
        layer("a", "Extracting", 1 * MB, 100 * MB),
        layer("b", "Download complete"),
        layer("a", "Extracting", 99 * MB, 100 * MB),
        layer("a", "Pull complete"),
        layer("b", "Extracting", 99 * MB, 100 * MB),
        layer("b", "Pull complete"),
        {"status": "Digest: sha256:1"},
        {"status": "Status: Downloaded newer image for lab:5000/team/asr:1"},
    ]
    for message in messages:
        progress.read(message)
        if progress.text != told[-1]:
            told.append(progress.text)
    begun = "fetching lab:5000/team/asr:1"
    assert told == [
        begun,
        *(f"{begun}: {part} of 100 MB" for part in range(0, 101, 10)),
        *(f"{begun}: {part} of 200 MB" for part in range(100, 200, 20)),
        f"{begun}: unpacking",
    ]


def test_layers_without_a_known_size_are_no_trouble() -> None:
    progress = Progress(ASR)
    for message in [{}, layer("a", "Pulling fs layer"), layer("a", "Downloading"), layer("a", "Download complete")]:
        progress.read(message)
    assert progress.text == "fetching lab:5000/team/asr:1"
    progress.read(layer("a", "Extracting", 1, 2))
    assert progress.text == "fetching lab:5000/team/asr:1: unpacking"
