"""References for every text: read or refused, never anything else, and the familiar form is a fixed point."""

import re

from hypothesis import example, given
from hypothesis import strategies as st

from muster.errors import InvalidSpec
from muster.model.reference import canonical, parse

COMPONENT = st.from_regex(r"[a-z0-9]{1,8}(?:(?:[._]|__|-{1,3})[a-z0-9]{1,8}){0,2}", fullmatch=True)
HOST = st.one_of(
    st.just("localhost"),
    st.from_regex(r"[a-z0-9]{1,8}\.[a-z0-9]{1,8}(?::[0-9]{1,5})?", fullmatch=True),
    st.from_regex(r"[a-z0-9]{1,8}:[0-9]{1,5}", fullmatch=True),
)
PATH = st.lists(COMPONENT, min_size=1, max_size=4).map("/".join)
TAG = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", fullmatch=True)
DIGEST = st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True)


@given(st.one_of(st.text(max_size=40), st.text("abZ0.:/@-_ \n", max_size=40)))
@example("docker.io")
@example("docker.io/docker.io")
@example("docker.io/library/")
@example("library/library")
@example("localhost/localhost/localhost")
def test_every_text_is_read_or_refused_and_its_familiar_form_means_the_same(text: str) -> None:
    try:
        reference = parse(text)
    except InvalidSpec:
        return
    assert parse(str(reference)) == reference
    assert canonical(str(reference)) == str(reference)
    assert re.fullmatch(r"[\x21-\x7e]+", str(reference)), "nothing that an engine's URL could trip over"


@given(HOST, PATH, TAG)
def test_registry_path_and_tag_are_found_again(host: str, path: str, tag: str) -> None:
    reference = parse(f"{host}/{path}:{tag}")
    assert (reference.registry, reference.path, reference.tag, reference.digest) == (host, path, tag, "")


@given(HOST, PATH, TAG, DIGEST)
def test_a_digest_says_more_than_a_tag(host: str, path: str, tag: str, digest: str) -> None:
    assert parse(f"{host}/{path}:{tag}@{digest}") == parse(f"{host}/{path}@{digest}")
