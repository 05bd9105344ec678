"""Service keys become file names that stay in their folder, and come back."""

from hypothesis import given
from hypothesis import strategies as st

from muster.model.endpoint import ServiceKey
from muster.registry import names

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)


@given(NAMES)
def test_every_name_comes_back(name: str) -> None:
    assert names.decode(names.encode(name)) == name


@given(NAMES)
def test_no_name_leaves_its_folder_hides_or_looks_like_the_registrys_own(name: str) -> None:
    encoded = names.encode(name)
    assert "/" not in encoded
    assert "\0" not in encoded
    assert encoded[0] not in ".@"


@given(NAMES, NAMES)
def test_different_names_stay_different(one: str, other: str) -> None:
    assert (names.encode(one) == names.encode(other)) == (one == other)


def test_ordinary_names_stay_readable() -> None:
    assert names.relative_path(ServiceKey("admin", "数字-v1.2_a")) == "admin/数字-v1.2_a/6006.json"
    assert names.encode("../a b@c%") == "%2E.%2Fa%20b%40c%25"


def test_files_that_are_not_named_like_a_key_are_none() -> None:
    assert names.key_of("a", "b", "6006.json") == ServiceKey("a", "b", 6006)
    assert names.key_of("a", "b", "notes.json") is None
    assert names.key_of("a", "b", "6006") is None
