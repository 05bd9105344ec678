"""Start commands examined with the help of bash, which reads and never runs them."""

import asyncio
from pathlib import Path

import pytest

from muster.api.command import Examined, examined
from muster.planner.lint import Code
from tests.unit.planner.test_lint import GOOD


def examine(cmd: str) -> Examined:
    return asyncio.run(examined(cmd))


def codes_of(cmd: str) -> list[Code]:
    return [each.code for each in examine(cmd).warnings]


@pytest.mark.parametrize("cmd", GOOD)
def test_what_the_rules_call_good_bash_calls_valid(cmd: str) -> None:
    assert examine(cmd) == (cmd, ())


def test_ampersand_semicolon_is_stored_repaired_and_told() -> None:
    cmd, warnings = examine("cd /root && python a.py > log 2>&1 &; sleep infinity")
    assert cmd == "cd /root && python a.py > log 2>&1 & sleep infinity"
    (warning,) = warnings
    assert warning.code is Code.AMPERSAND_SEMICOLON
    assert "stored" in warning.message


def test_what_the_repair_does_not_make_valid_is_left_as_it_is() -> None:
    text = "python /root/a.py &; sleep infinity; fi"
    cmd, warnings = examine(text)
    assert cmd == text
    assert [each.code for each in warnings] == [Code.AMPERSAND_SEMICOLON, Code.SYNTAX]


def test_an_error_is_told_with_its_line_in_the_words_of_bash() -> None:
    cmd, (warning,) = examine("sleep 1\necho 'never closed\nsleep 2")
    assert cmd == "sleep 1\necho 'never closed\nsleep 2"
    assert (warning.code, warning.line) == (Code.SYNTAX, 2)
    assert warning.message == "bash says of line 2: unexpected EOF while looking for matching `''"


def test_a_here_document_without_an_end_is_told() -> None:
    assert codes_of("cat <<EOF\nsleep infinity") == [Code.SYNTAX]


def test_nothing_is_executed(tmp_path: Path) -> None:
    for text in (f"touch {tmp_path}/a", f"echo $(touch {tmp_path}/b) `touch {tmp_path}/c`", f"set +n; > {tmp_path}/d"):
        examine(text)
        examine(text + " &; true")
        examine(f"(\n{text}\n")
    assert list(tmp_path.iterdir()) == []


def test_patterns_that_a_command_turns_on_itself_are_no_error() -> None:
    assert codes_of("shopt -s extglob\nls /root/!(a|b); sleep infinity") == []


@pytest.mark.parametrize("text", ["(" * 30_000, "$(" * 15_000, "a" * 30_000, "é" * 30_000, "'\n" * 15_000 + "'"])
def test_monstrous_commands_are_survived(text: str) -> None:
    assert examine(text).cmd == text


def test_without_bash_the_rules_alone_speak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    cmd, warnings = examine("python /root/without.py &; sleep infinity")
    assert cmd == "python /root/without.py &; sleep infinity"
    assert [each.code for each in warnings] == [Code.AMPERSAND_SEMICOLON]
