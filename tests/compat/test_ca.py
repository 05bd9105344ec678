"""The authority to trust at containers' addresses, over HTTP."""

from pathlib import Path

from muster.tls.authority import ca_pem
from tests.compat.world import World

PATH = "/api/v1/muster/ca"


def test_it_is_told_to_whoever_asks(world: World) -> None:
    world.ca_pem = "-----BEGIN CERTIFICATE-----"
    for token in ("", "mst_wrong"):
        response = world.send("GET", PATH, token=token)
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("application/x-pem-file")
        assert response.text == world.ca_pem


def test_it_is_the_file_that_curl_reads(world: World, tmp_path: Path) -> None:
    world.ca_pem = ca_pem(tmp_path)
    assert world.send("GET", PATH).content == (tmp_path / "tls" / "ca.pem").read_bytes()


def test_where_none_is_needed_it_is_not_found_and_says_why(world: World) -> None:
    response = world.send("GET", PATH)
    assert response.status_code == 404
    error = response.json()["error"]
    assert error["code"] == "RecordNotFoundError"
    assert error["message"] == (
        "there is no authority to tell: either there is no ingress, or its certificate is the operator's, who named"
        " none in tls_ca because clients know it"
    )
