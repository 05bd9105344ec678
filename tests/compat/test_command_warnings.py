"""What the create and check answers say about a start command; it is never refused for it."""

from muster.model.ids import DeploymentId
from tests.compat.world import World, body


def test_a_good_command_has_no_warnings(world: World) -> None:
    answer = world.ok("POST", "/deployment", body(template__cmd="cd /root && python serve.py"))
    assert set(answer) == {"deployment_uuid", "warnings"}
    assert answer["warnings"] == []


def test_a_command_that_ends_at_once_is_created_with_a_warning(world: World) -> None:
    answer = world.ok("POST", "/deployment", body(template__cmd="nohup python /root/serve.py &"))
    (warning,) = answer["warnings"]
    assert set(warning) == {"code", "message"}
    assert warning["code"] == "background"
    assert "`nohup python /root/serve.py &` runs in the background" in warning["message"]
    assert stored(world, answer["deployment_uuid"]) == "nohup python /root/serve.py &"


def test_an_ampersand_and_semicolon_is_stored_as_bash_takes_it(world: World) -> None:
    text = "python /root/a.py &; python /root/b.py"
    answer = world.ok("POST", "/deployment", body(template__cmd=text))
    assert [each["code"] for each in answer["warnings"]] == ["ampersand_semicolon"]
    assert stored(world, answer["deployment_uuid"]) == "python /root/a.py & python /root/b.py"


def test_a_command_that_bash_cannot_read_is_created_with_its_error(world: World) -> None:
    answer = world.ok("POST", "/deployment", body(template__cmd="echo 'never closed"))
    assert [each["code"] for each in answer["warnings"]] == ["syntax"]
    assert stored(world, answer["deployment_uuid"]) == "echo 'never closed"


def test_a_check_tells_the_same_as_creating(world: World) -> None:
    asked = body(template__cmd="conda activate tf; python serve.py &;")
    checked = world.send("POST", "/api/v1/muster/deployments/check", json=asked).json()
    assert [each["code"] for each in checked["warnings"]] == [
        "ampersand_semicolon",
        "background",
        "conda_activate",
        "relative_path",
    ]
    assert checked["spec"]["container_template"]["cmd"] == "conda activate tf; python serve.py &"
    assert world.ok("POST", "/deployment", asked)["warnings"] == checked["warnings"]


def stored(world: World, uuid: str) -> str:
    deployment = world.read(lambda tx: tx.deployments.get(DeploymentId(uuid)))
    assert deployment is not None
    return deployment.spec.cmd
