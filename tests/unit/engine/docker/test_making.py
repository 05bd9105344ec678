"""What is refused before anything is made of it."""

import dataclasses

import pytest

from muster.engine.docker.making import check_run
from muster.errors import EngineRejected
from muster.model.container import Reason
from muster.model.ids import ContainerId
from muster.model.run import Ref
from tests.unit.engine.docker.opened import order

LONG = "x" * 200_000


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"AÄ": "x"}, "a name that no shell can be given"),
        ({"A-B": "x"}, "a name that no shell can be given"),
        ({"1A": "x"}, "a name that no shell can be given"),
        ({"": "x"}, "a name that no shell can be given"),
        ({"A": "x\0y"}, "the variable A holds a zero byte"),
        ({"A": "\ud800"}, "the variable A is no text"),
        ({"A": LONG}, "the variable A is longer than 120 kB"),
    ],
)
def test_variables_that_no_process_can_have_are_refused(env: dict[str, str], words: str) -> None:
    with pytest.raises(EngineRejected, match=words) as refusal:
        check_run(dataclasses.replace(order(), env=env))
    assert refusal.value.reason == Reason.START_FAILED
    assert "xx" not in str(refusal.value), "it may be secret"


@pytest.mark.parametrize("cmd", ["echo \0", "echo \udfff", LONG])
def test_commands_that_no_shell_can_have_are_refused(cmd: str) -> None:
    with pytest.raises(EngineRejected, match="the command"):
        check_run(order(cmd))


@pytest.mark.parametrize("name", ["", "-a", "a/b", "../a", "ä", "a b"])
def test_names_that_are_none_are_refused(name: str) -> None:
    run = order()
    with pytest.raises(EngineRejected, match="cannot be a container's name"):
        check_run(dataclasses.replace(run, ref=Ref(run.ref.machine_id, ContainerId(name))))
