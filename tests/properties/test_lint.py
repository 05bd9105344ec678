"""Lint on whatever anybody may send: it never fails, never takes long, and its repair is one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.planner.lint import lint, repaired
from muster.planner.shell import parse
from muster.planner.shell_tokens import Kind, Unreadable, tokens

FRAGMENTS = (
    *("a", "python a.py", "conda activate x", "cd /x", "wait", "bash", "x=1", "if", "then", "else", "fi", "for i in 1"),
    *("do", "done", "while", "case x in", "esac", "{", "}", "[[", "]]", "((", "))", "f()", "function f", "nohup"),
    *("&", "&&", "||", "|", ";", ";;", "\n", "\r\n", "(", ")", "$(", "${", "`", "'", '"', "\\", "#", "<<EOF", "EOF"),
    *(" ", "\t", "<", ">", "2>&1", "&>", "<(", "$'", "!", "time", "é", "“", "\u00a0", "=("),
)
COMMANDS = st.lists(st.sampled_from(FRAGMENTS), max_size=30).map(" ".join) | st.lists(
    st.sampled_from(FRAGMENTS), max_size=30
).map("".join)


@given(COMMANDS | st.text())
def test_it_never_fails(cmd: str) -> None:
    for warning in lint(cmd):
        assert warning.message
        assert 1 <= warning.line <= cmd.count("\n") + 1


@given(COMMANDS)
def test_a_repair_takes_semicolons_and_leaves_none_to_take(cmd: str) -> None:
    better = repaired(cmd)
    if better is not None:
        assert len(better) < len(cmd)
        assert better.replace(";", "") == cmd.replace(";", "")


@given(COMMANDS)
def test_tokens_are_in_order_and_hold_everything_but_blanks_and_comments(cmd: str) -> None:
    try:
        read = tokens(cmd)
    except Unreadable:
        return
    end = 0
    for token in read:
        assert end <= token.start < token.end <= len(cmd)
        assert token.kind is not Kind.NEWLINE or cmd[token.start] == "\n"
        end = token.end


@pytest.mark.parametrize(
    "piece",
    [
        "(",
        "((",
        "$(",
        '"$(',
        "${",
        "`",
        "{ ",
        "if ",
        "a & ",
        "a && b || ",
        "A=1 ",
        "nohup - ",
        "<<E\n",
        "((a) b ",
        "'",
        "\\",
        *["f() ", "case x in ", "! ", "( ( a ) )", "for x in ", "$((", "x=(", "“", "python -W ", "time "],
    ],
)
@pytest.mark.timeout(30)  # a quadratic rule would take minutes
def test_the_longest_commands_end(piece: str) -> None:
    cmd = (piece * 30_000)[:30_000]
    lint(cmd)
    assert repaired(cmd) is None or "&;" in cmd


def test_what_is_nested_deeper_than_anybody_writes_is_unreadable() -> None:
    assert parse("(" * 30 + "a" + ")" * 30)
    with pytest.raises(Unreadable):
        parse("( " * 50 + "a" + " )" * 50)
