"""What Docker says of its images, in the words of the model."""

import pytest

from muster.engine.docker.held import held_by_names, read_reference
from muster.errors import EngineRejected
from muster.model.image import HeldImage

ONE, TWO = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"


def test_an_image_is_told_by_each_of_its_names_with_the_digest_of_that_names_registry() -> None:
    found = {
        "RepoTags": ["nginx:1.27", "lab:5000/web:1", "lab:5000/web:2", "loaded:1"],
        "RepoDigests": [f"nginx@{ONE}", f"lab:5000/web@{TWO}"],
        "Size": 7,
    }
    assert {held.reference: held.digest for held in held_by_names(found)} == {
        "nginx:1.27": ONE,
        f"nginx@{ONE}": ONE,
        "lab:5000/web:1": TWO,
        "lab:5000/web:2": TWO,
        f"lab:5000/web@{TWO}": TWO,
        "loaded:1": "",
    }
    assert {held.size_bytes for held in held_by_names(found)} == {7}


def test_what_lost_its_tag_is_still_there_by_its_digest() -> None:
    found = {"RepoTags": ["<none>:<none>"], "RepoDigests": [f"nginx@{ONE}"], "Size": 7}
    assert held_by_names(found) == [HeldImage(f"nginx@{ONE}", ONE, 7)]


def test_what_nobody_can_order_is_left_out() -> None:
    for tags in (None, [], ["<none>:<none>"], ["muster.invalid/copy:c1"], ["Team/asr:1"]):
        assert held_by_names({"RepoTags": tags, "RepoDigests": ["<none>@<none>"], "Size": 7}) == []


@pytest.mark.parametrize("text", ["", "a b", "Team/asr", "f" * 64, ONE, "x:", "../containers/json", "http://lab/x"])
def test_what_is_no_reference_never_gets_to_docker(text: str) -> None:
    with pytest.raises(EngineRejected, match="names no image: ") as refusal:
        read_reference(text)
    assert refusal.value.reason == "image_pull_failed"
