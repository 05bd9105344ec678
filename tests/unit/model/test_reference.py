"""References: what they stand for, which are refused, and why."""

import pytest

from muster.errors import InvalidSpec
from muster.model.ids import AccountId, ImageUuid
from muster.model.reference import canonical, is_saved, parse, registry_named, registry_of, saved_by, saved_reference

DIGEST = "sha256:" + "0123456789abcdef" * 4

# text, (registry, path, tag, digest), familiar form
GOOD = [
    ("nginx", ("docker.io", "library/nginx", "latest", ""), "nginx:latest"),
    ("nginx:1.27", ("docker.io", "library/nginx", "1.27", ""), "nginx:1.27"),
    ("library/nginx", ("docker.io", "library/nginx", "latest", ""), "nginx:latest"),
    ("docker.io/nginx", ("docker.io", "library/nginx", "latest", ""), "nginx:latest"),
    ("index.docker.io/library/nginx", ("docker.io", "library/nginx", "latest", ""), "nginx:latest"),
    ("team/asr:2", ("docker.io", "team/asr", "2", ""), "team/asr:2"),
    ("docker.io/library/a/b", ("docker.io", "library/a/b", "latest", ""), "library/a/b:latest"),
    ("docker.io/a.b/c", ("docker.io", "a.b/c", "latest", ""), "docker.io/a.b/c:latest"),
    ("registry.lab/asr", ("registry.lab", "asr", "latest", ""), "registry.lab/asr:latest"),
    ("registry.lab:5000/team/asr:2", ("registry.lab:5000", "team/asr", "2", ""), "registry.lab:5000/team/asr:2"),
    ("REGISTRY.lab/asr", ("registry.lab", "asr", "latest", ""), "registry.lab/asr:latest"),
    ("localhost/asr", ("localhost", "asr", "latest", ""), "localhost/asr:latest"),
    ("localhost:5000", ("docker.io", "library/localhost", "5000", ""), "localhost:5000"),
    ("127.0.0.1:5000/asr", ("127.0.0.1:5000", "asr", "latest", ""), "127.0.0.1:5000/asr:latest"),
    ("[::1]:5000/asr:1", ("[::1]:5000", "asr", "1", ""), "[::1]:5000/asr:1"),
    (f"nginx@{DIGEST}", ("docker.io", "library/nginx", "", DIGEST), f"nginx@{DIGEST}"),
    (f"nginx:1.27@{DIGEST}", ("docker.io", "library/nginx", "", DIGEST), f"nginx@{DIGEST}"),
    ("a_b.c--d__e", ("docker.io", "library/a_b.c--d__e", "latest", ""), "a_b.c--d__e:latest"),
]


@pytest.mark.parametrize(("text", "parts", "familiar"), GOOD)
def test_a_reference_is_read_as_docker_reads_it(text: str, parts: tuple[str, str, str, str], familiar: str) -> None:
    reference = parse(text)
    assert (reference.registry, reference.path, reference.tag, reference.digest) == parts
    assert str(reference) == canonical(text) == canonical(familiar) == familiar
    assert registry_of(text) == parts[0]


BAD = [
    ("", "is empty"),
    (" nginx", "blank"),
    ("nginx\n", "blank"),
    ("https://registry.lab/asr", "is a URL; write it without https://"),
    ("a" * 64, "is an image's id"),
    (DIGEST, "is an image's id"),
    ("sha256:abcdef", "is an image's id"),
    ("docker.io/library/sha256:abcdef", "is an image's id"),
    ("nginx@", "is no digest"),
    ("nginx@sha256:12", "is no digest"),
    (f"nginx@{DIGEST.upper()}", "is no digest"),
    (f"nginx@{DIGEST}@{DIGEST}", "is no digest"),
    ("nginx:", "'' is no tag"),
    ("nginx:-x", "'-x' is no tag"),
    ("nginx:a b", "blank"),
    ("nginx:" + "x" * 129, "is no tag"),
    (":1", "lacks a name"),
    ("registry.lab/", "lacks a name"),
    ("registry.lab//asr", "lacks a name"),
    ("team/", "lacks a name"),
    ("Nginx", "capital letters"),
    ("Team/asr", "'Team' holds capital letters"),
    ("-asr", "is no part of a name"),
    ("a..b", "is no part of a name"),
    ("a___b", "is no part of a name"),
    ("team/as$r", "is no part of a name"),
    ("ocr/größe", "is no part of a name"),
    ("registry_lab.x/asr", "is no registry"),
    ("registry.lab:port/asr", "is no registry"),
    ("registry.lab:123456/asr", "is no registry"),
    ("-registry.lab/asr", "is no registry"),
    ("a/" + "b" * 255, "more than 255 characters"),
]


@pytest.mark.parametrize(("text", "why"), BAD)
def test_what_can_be_no_reference_is_refused_saying_why(text: str, why: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        parse(text)
    assert refused.value.field == "reference"
    assert why in refused.value.reason


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("registry.lab:5000", "registry.lab:5000"),
        (" Docker.IO\n", "docker.io"),
        ("index.docker.io", "docker.io"),
        ("localhost", "localhost"),
    ],
)
def test_a_registry_is_named_as_references_have_it(text: str, name: str) -> None:
    assert registry_named(text) == name


@pytest.mark.parametrize("text", ["", "https://registry.lab", "registry.lab/v1/", "lab", "a b.c", "lab:x"])
def test_what_no_reference_can_have_as_its_registry_is_refused(text: str) -> None:
    with pytest.raises(InvalidSpec, match="registry"):
        registry_named(text)


def test_a_saved_image_is_of_a_registry_that_cannot_be() -> None:
    reference = saved_reference(AccountId(7), ImageUuid("image-5d0c77e1ab"))
    assert reference == "saved.muster.invalid/7/image-5d0c77e1ab:latest" == canonical(reference)
    assert is_saved(reference)
    assert is_saved(canonical("Saved.Muster.INVALID/8/x"))
    assert not is_saved("saved.muster.invalid.example/x:latest")
    assert not is_saved("nginx:latest")


def test_a_saved_image_tells_whose_it_is() -> None:
    assert saved_by(saved_reference(AccountId(7), ImageUuid("image-5d0c77e1ab"))) == 7
    assert saved_by("saved.muster.invalid/x:latest") is None
    assert saved_by("7/x:latest") is None
