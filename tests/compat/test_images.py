"""The catalogue: names and references, who may change them, what machines are to hold, and secrets that stay so."""

import json
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from muster.model.container import Container, ContainerStatus
from muster.model.ids import ImageUuid
from muster.model.image import LOCAL_IMAGE, HeldImage, ImageStatus, PrewarmState
from muster.store.port import Transaction, Window
from tests.compat.world import ADMIN, MACHINES, MEMBER, World, body

ROOT = "/api/v1/muster"
M1, M2, M3 = (machine.id for machine in MACHINES)
CANARY = "pa55w0rd-canary"


def call(world: World, method: str, path: str, content: Any = None, *, token: str = MEMBER, status: int = 200) -> Any:
    response = world.send(method, ROOT + path, token=token, json=content)
    assert response.status_code == status, response.text
    return response.json()


def refused(world: World, method: str, path: str, content: Any = None, *, token: str = MEMBER, status: int) -> str:
    answer = call(world, method, path, content, token=token, status=status)
    return f"{answer['error']['field']}: {answer['error']['message']}".removeprefix(": ")


def add(world: World, name: str = "asr", reference: str = "lab:5000/asr:1", *, token: str = MEMBER, **more: Any) -> Any:
    return call(world, "POST", "/images", {"name": name, "reference": reference, **more}, token=token, status=201)


def hold(world: World, machine: Any, *images: HeldImage) -> None:
    world.write(lambda tx: tx.held_images.hold(machine, images))


def note_digest(world: World, uuid: str, digest: str) -> None:
    def work(tx: Transaction) -> None:
        (image,) = (each for each in everything(tx) if each.uuid == uuid)
        tx.images.update(replace(image, digest=digest))

    world.write(work)


def everything(tx: Transaction) -> list[Any]:
    accounts = [None, *(account.id for account in tx.accounts.all())]
    return [image for account in accounts for image in tx.images.find(account, Window()).items]


def running(world: World, **changes: Any) -> Container:
    return world.up(world.place(world.create(token=MEMBER, **changes)))


# Names and references


def test_a_new_name_stands_for_its_reference_in_the_form_that_engines_list(world: World) -> None:
    answer = add(world, "web", "docker.io/library/nginx")
    image = answer.pop("image")
    assert answer == {"rebound": False, "old_reference": "", "old_digest": "", "outdated_on": []}
    assert re.fullmatch(r"image-[0-9a-f]{10}", image["image_uuid"])
    assert (image["name"], image["reference"], image["digest"]) == ("web", "nginx:latest", "")
    assert (image["status"], image["message"], image["is_base"], image["held_on"]) == ("finished", "", False, [])
    assert call(world, "GET", "/images")["images"][0] == image
    (row,) = world.ok("POST", "/image/private/list", token=MEMBER)["list"]
    assert (row["image_uuid"], row["image_name"], row["status"]) == (image["image_uuid"], "web", "finished")
    assert world.ok("POST", "/image/private/list", token=ADMIN)["list"] == []
    assert [each["name"] for each in call(world, "GET", "/images", token=ADMIN)["images"]] == ["local"]


def test_a_base_image_is_everybodys_and_only_admins_add_and_remove_it(world: World) -> None:
    asked = {"name": "torch", "reference": "registry.lab/torch:2.5", "base": True}
    assert "only admins" in refused(world, "POST", "/images", asked, status=403)
    image = add(world, "torch", "registry.lab/torch:2.5", token=ADMIN, base=True)["image"]
    assert re.fullmatch(r"base-image-[0-9a-f]{12}", image["image_uuid"])
    assert image["is_base"]
    assert [each["name"] for each in call(world, "GET", "/images")["images"]] == ["torch", "local"]
    rows = world.send("POST", "/api/v2/image/list", token=MEMBER, json={}).json()["data"]["list"]
    assert [(row["name"], row["url"]) for row in rows] == [("torch", "registry.lab/torch:2.5"), ("local", "local")]
    path = f"/images/{image['image_uuid']}"
    assert "only admins" in refused(world, "DELETE", path, status=403)
    assert call(world, "DELETE", path, token=ADMIN)["name"] == "torch"
    assert call(world, "GET", "/images")["images"][0]["name"] == "local"


def test_a_name_that_is_bound_anew_tells_what_it_stood_for_and_where_that_is_held(world: World) -> None:
    uuid = add(world)["image"]["image_uuid"]
    note_digest(world, uuid, "sha256:old")
    for machine in (M1, M2, M3):
        hold(world, machine, HeldImage("mirror/asr:1", "sha256:old" if machine != M3 else "sha256:other"))
    hold(world, M2, HeldImage("lab:5000/asr:1", "sha256:old"), HeldImage("lab:5000/asr:2", "sha256:new"))
    answer = call(world, "POST", "/images", {"name": "asr", "reference": "lab:5000/asr:2"})
    image = answer.pop("image")
    assert answer == {
        "rebound": True,
        "old_reference": "lab:5000/asr:1",
        "old_digest": "sha256:old",
        "outdated_on": [M1],
    }
    assert (image["image_uuid"], image["reference"], image["digest"]) == (uuid, "lab:5000/asr:2", "")
    assert image["held_on"] == [M2]


def test_the_same_reference_again_offers_to_fetch_it_anew_and_changes_nothing(world: World) -> None:
    image = add(world)["image"]
    note_digest(world, image["image_uuid"], "sha256:1")
    hold(world, M1, HeldImage("lab:5000/asr:1", "sha256:1"))
    answer = call(world, "POST", "/images", {"name": "asr", "reference": "lab:5000/asr:1"})
    assert (answer["rebound"], answer["old_digest"], answer["outdated_on"]) == (True, "sha256:1", [M1])
    assert answer["image"] == {**image, "digest": "sha256:1", "held_on": [M1]}


def test_a_name_that_is_bound_anew_forgets_the_prewarms_of_the_old_reference(world: World) -> None:
    uuid = add(world)["image"]["image_uuid"]
    call(world, "POST", f"/images/{uuid}/prewarm", status=202)
    call(world, "POST", "/images", {"name": "asr", "reference": "lab:5000/asr:2"})
    assert call(world, "GET", f"/images/{uuid}/prewarm")["prewarms"] == []


def test_two_accounts_may_use_one_name(world: World) -> None:
    mine, theirs = add(world), add(world, token=ADMIN)
    assert not theirs["rebound"]
    assert mine["image"]["image_uuid"] != theirs["image"]["image_uuid"]
    refused(world, "DELETE", f"/images/{theirs['image']['image_uuid']}", status=422)
    refused(world, "GET", f"/images/{theirs['image']['image_uuid']}/prewarm", status=422)


@pytest.mark.parametrize(
    ("name", "reference", "why"),
    [
        ("asr", "", "reference: is empty"),
        ("asr", "lab:5000/ASR", "reference: 'ASR' holds capital letters"),
        ("asr", "https://lab/asr", "reference: 'https://lab/asr' is a URL"),
        ("asr", "sha256:" + "0" * 64, "is an image's id"),
        ("asr", "saved.muster.invalid/2/image-0123456789:latest", "was saved here"),
        ("asr", "Saved.Muster.invalid/2/image-0123456789", "was saved here"),
        ("image-0123456789", "nginx", "name: 'image-0123456789' would be taken for a uuid"),
        ("", "nginx", "name: must not be empty"),
        ("a b", "nginx", "name: "),
        ("a\n", "nginx", "name: "),
    ],
)
def test_what_can_be_no_image_is_refused_saying_why(shared: World, name: str, reference: str, why: str) -> None:
    assert why in refused(shared, "POST", "/images", {"name": name, "reference": reference}, status=422)
    assert call(shared, "GET", "/images")["images"][0]["name"] == "local"


def test_an_image_that_a_running_deployment_names_stays(world: World) -> None:
    uuid = add(world)["image"]["image_uuid"]
    first = world.create(token=MEMBER, name="one", template__image_uuid=uuid)
    stopped = world.create(token=MEMBER, name="two", template__image_uuid=uuid)
    world.ok("PUT", "/deployment/operate", {"deployment_uuid": stopped, "operate": "stop"}, token=MEMBER)
    said = refused(world, "DELETE", f"/images/{uuid}", status=409)
    assert said == f"image 'asr' is used by running deployments: one ({first})"
    world.ok("DELETE", "/deployment", {"deployment_uuid": first}, token=MEMBER)
    assert call(world, "DELETE", f"/images/{uuid}")["image_uuid"] == uuid
    refused(world, "DELETE", f"/images/{uuid}", status=422)


def test_many_users_of_an_image_are_not_all_told(world: World) -> None:
    uuid = add(world)["image"]["image_uuid"]
    for number in range(7):
        world.create(token=MEMBER, name=f"d{number}", template__image_uuid=uuid)
    assert refused(world, "DELETE", f"/images/{uuid}", status=409).endswith(" and 2 more")


def test_the_host_itself_cannot_be_removed(shared: World) -> None:
    assert "the host itself" in refused(shared, "DELETE", f"/images/{LOCAL_IMAGE}", token=ADMIN, status=409)


def test_an_engine_without_images_adds_fetches_and_saves_none(world: World) -> None:
    container = running(world)
    world.access.capabilities = replace(world.access.capabilities, has_images=False)
    for path, content in (
        ("/images", {"name": "asr", "reference": "nginx"}),
        (f"/images/{LOCAL_IMAGE}/prewarm", {}),
        ("/images/save", {"container_uuid": container.uuid, "name": "mine"}),
    ):
        assert refused(world, "POST", path, content, status=409) == "the local engine has one image: the host"


def test_who_may_not_deploy_may_not_add_or_save(tmp_path: Path) -> None:
    World.furnish(tmp_path)
    with World(tmp_path, isolates_tenants=False) as world:
        refused(world, "POST", "/images", {"name": "asr", "reference": "nginx"}, status=403)
        refused(world, "POST", "/images/save", {"container_uuid": "x", "name": "mine"}, status=403)


# Deployments


def test_a_deployment_may_name_its_own_accounts_image_and_nobody_elses(world: World) -> None:
    uuid = add(world)["image"]["image_uuid"]
    created = world.create(token=MEMBER, template__image_uuid=uuid)
    (row,) = world.ok("POST", "/deployment/list", token=MEMBER)["list"]
    assert (row["uuid"], row["image_uuid"], row["template"]["image_name"]) == (created, uuid, "asr")
    assert world.refused("POST", "/deployment", body(template__image_uuid=uuid)) == ("BadRequest", "镜像不存在")


def test_whether_an_image_is_fetched_again_is_part_of_the_template(world: World) -> None:
    checked = call(world, "POST", "/deployments/check", body())
    assert checked["spec"]["container_template"]["image_pull"] == "missing"
    uuid = world.create(token=MEMBER, template__image_pull="always")
    spec = call(world, "GET", f"/deployments/{uuid}")["spec"]
    assert spec["container_template"]["image_pull"] == "always"
    assert call(world, "POST", "/deployments/check", spec)["spec"] == spec
    said = refused(world, "POST", "/deployments/check", body(template__image_pull="never"), status=422)
    assert said.startswith("container_template.image_pull: ")


# Saving


def test_a_container_is_saved_under_a_name_that_cannot_be_fetched_from_anywhere(world: World) -> None:
    container = running(world)
    image = call(world, "POST", "/images/save", {"container_uuid": container.uuid, "name": "mine"}, status=202)
    assert (image["status"], image["source_container_uuid"]) == ("saving", container.uuid)
    assert image["reference"] == f"saved.muster.invalid/{container.account_id}/{image['image_uuid']}:latest"
    (row,) = world.ok("POST", "/image/private/list", token=MEMBER)["list"]
    assert row["status"] == "saving"


def test_an_image_that_is_not_saved_yet_or_could_not_be_is_not_deployed(world: World) -> None:
    container = running(world)
    image = call(world, "POST", "/images/save", {"container_uuid": container.uuid, "name": "mine"}, status=202)
    asked = body(template__image_uuid=image["image_uuid"])
    code, said = world.refused("POST", "/deployment", asked, token=MEMBER)
    assert code == "BadRequest"
    assert "is being saved" in said
    assert "is being saved" in refused(world, "POST", f"/images/{image['image_uuid']}/prewarm", status=409)
    assert "is being saved" in refused(world, "POST", "/images", {"name": "mine", "reference": "nginx"}, status=409)
    finish(world, image["image_uuid"], ImageStatus.FAILED, "no space left")
    assert "no space left" in world.refused("POST", "/deployment", asked, token=MEMBER)[1]
    finish(world, image["image_uuid"], ImageStatus.FINISHED, "")
    world.ok("POST", "/deployment", asked, token=MEMBER)
    asked["container_template"]["image_pull"] = "always"
    code, said = world.refused("POST", "/deployment", asked, token=MEMBER)
    assert code == "RequestParameterIsWrong"
    assert "image_pull" in said


def finish(world: World, uuid: str, status: ImageStatus, message: str) -> None:
    def work(tx: Transaction) -> None:
        (image,) = (each for each in everything(tx) if each.uuid == uuid)
        tx.images.update(replace(image, status=status, message=message))

    world.write(work)


def test_a_taken_name_is_not_saved_over_unless_its_saving_failed(world: World) -> None:
    container = running(world)
    asked = {"container_uuid": container.uuid, "name": "mine"}
    first = call(world, "POST", "/images/save", asked, status=202)["image_uuid"]
    assert f"'mine': {first}" in refused(world, "POST", "/images/save", asked, status=409)
    finish(world, first, ImageStatus.FAILED, "no space left")
    second = call(world, "POST", "/images/save", asked, status=202)["image_uuid"]
    assert [each["image_uuid"] for each in call(world, "GET", "/images")["images"]] == [second, LOCAL_IMAGE]


def test_what_has_no_files_cannot_be_saved(world: World) -> None:
    container = world.place(world.create(token=MEMBER))
    asked = {"container_uuid": container.uuid, "name": "mine"}
    assert "not made yet" in refused(world, "POST", "/images/save", asked, status=409)
    world.advance(container, ContainerStatus.SHUTDOWN, released_at=world.clock.now())
    assert "is gone" in refused(world, "POST", "/images/save", asked, status=409)
    refused(world, "POST", "/images/save", {**asked, "container_uuid": "x"}, status=404)
    theirs = world.up(world.place(world.create(), gpu=1))
    refused(world, "POST", "/images/save", {**asked, "container_uuid": theirs.uuid}, status=404)


# Prewarms


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, [M1, M2, M3]),
        ({"machine_ids": [M2]}, [M2]),
        ({"data_centers": ["lab-b"]}, [M3]),
        ({"data_centers": ["lab-b"], "machine_ids": [M1]}, [M1, M3]),
        (None, [M1, M2, M3]),
    ],
)
def test_machines_are_wanted_to_hold_an_image(world: World, asked: Any, expected: list[str]) -> None:
    uuid = add(world)["image"]["image_uuid"]
    wanted = call(world, "POST", f"/images/{uuid}/prewarm", asked, status=202)["prewarms"]
    assert [(each["machine_id"], each["state"]) for each in wanted] == [(machine, "wanted") for machine in expected]
    assert call(world, "GET", f"/images/{uuid}/prewarm")["prewarms"] == wanted


def test_how_far_a_prewarm_is_can_be_asked(world: World) -> None:
    uuid = add(world)["image"]["image_uuid"]
    call(world, "POST", f"/images/{uuid}/prewarm", {"machine_ids": [M1]}, status=202)

    def work(tx: Transaction) -> None:
        (prewarm,) = tx.prewarms.of(ImageUuid(uuid))
        tx.prewarms.update(replace(prewarm, state=PrewarmState.FAILED, message="denied"))

    world.write(work)
    (row,) = call(world, "GET", f"/images/{uuid}/prewarm")["prewarms"]
    assert (row["state"], row["message"]) == ("failed", "denied")


def test_a_prewarm_of_what_is_not_there_is_refused(world: World) -> None:
    uuid = add(world)["image"]["image_uuid"]
    path = f"/images/{uuid}/prewarm"
    assert refused(world, "POST", path, {"machine_ids": [M1, "zz"]}, status=422).startswith("machine_ids: ")
    assert refused(world, "POST", path, {"data_centers": ["lab-z"]}, status=422).startswith("data_centers: ")
    assert call(world, "GET", path)["prewarms"] == []
    refused(world, "POST", "/images/image-0000000000/prewarm", status=422)


def test_a_saved_image_is_on_its_machine_only(world: World) -> None:
    container = running(world)
    image = call(world, "POST", "/images/save", {"container_uuid": container.uuid, "name": "mine"}, status=202)
    finish(world, image["image_uuid"], ImageStatus.FINISHED, "")
    hold(world, M1, HeldImage(image["reference"]))
    assert f"({M1})" in refused(world, "POST", f"/images/{image['image_uuid']}/prewarm", status=409)


# Registries


def test_registries_are_listed_by_name_and_forgotten(world: World) -> None:
    login = {"username": "ann", "password": CANARY}
    assert call(world, "PUT", "/registries/lab:5000", login) == {"registries": ["lab:5000"]}
    call(world, "PUT", "/registries/Index.docker.io", login)
    assert call(world, "GET", "/registries") == {"registries": ["docker.io", "lab:5000"]}
    assert call(world, "GET", "/registries", token=ADMIN) == {"registries": []}
    refused(world, "DELETE", "/registries/lab:5000", token=ADMIN, status=404)
    assert call(world, "DELETE", "/registries/lab:5000") == {"registries": ["docker.io"]}
    refused(world, "DELETE", "/registries/lab:5000", status=404)


@pytest.mark.parametrize(
    ("host", "login", "field"),
    [
        ("lab", {"username": "ann", "password": "x"}, "registry"),
        ("a b.c", {"username": "ann", "password": "x"}, "registry"),
        ("lab:5000", {"username": "", "password": "x"}, "username"),
        ("lab:5000", {"username": "ann"}, "password"),
        ("lab:5000", {"username": "ann", "password": ""}, "password"),
        ("lab:5000", {"username": "ann", "password": {"x": CANARY}}, "password"),
    ],
)
def test_a_wrong_login_is_refused_naming_the_field_only(
    shared: World, host: str, login: dict[str, Any], field: str
) -> None:
    said = refused(shared, "PUT", f"/registries/{host}", login, status=422)
    assert said.startswith(f"{field}: ")
    assert CANARY not in said


def test_a_password_is_in_no_answer_no_log_and_no_file(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    call(world, "PUT", "/registries/lab:5000", {"username": "canary-user", "password": CANARY})
    add(world)
    paths = ("/registries", "/images", "/me", "/machines", "/events?after=0&follow=false")
    dump = [world.send("GET", ROOT + path, token=token).text for path in paths for token in (ADMIN, MEMBER)]
    dump += [world.send("GET", path).text for path in ("/openapi.json", "/metrics")]
    assert CANARY not in json.dumps(dump)
    assert CANARY not in caplog.text
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"muster.db", "secret.key"} <= {path.name for path in files}
    for file in files:
        content = file.read_bytes()
        assert CANARY.encode() not in content, file
        assert b"canary-user" not in content, file


def test_a_key_that_others_may_read_is_not_used(world: World, tmp_path: Path) -> None:
    key = tmp_path / "secret.key"
    key.write_bytes(b"A" * 43 + b"=")
    key.chmod(0o644)
    login = {"username": "ann", "password": CANARY}
    assert f"run: chmod 600 {key}" in refused(world, "PUT", "/registries/lab:5000", login, status=503)
    assert call(world, "GET", "/registries") == {"registries": []}
