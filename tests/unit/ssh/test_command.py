"""Which words a login runs, and which variables come along; what shells make of them is in tests/e2e/test_ssh.py."""

from muster.ssh import command

PEER = ("192.0.2.7", 50000, 21001)


def test_only_what_the_terminal_can_do_and_the_user_can_read_comes_along() -> None:
    sent = {"LANG": "zh_CN.UTF-8", "LC_TIME": "C", "LD_PRELOAD": "/x", "PATH": "/y", "COLORTERM": "x" * 2000, "A B": ""}
    taken = command.environment(sent, terminal=None, peer=PEER)
    assert taken == {"LANG": "zh_CN.UTF-8", "LC_TIME": "C", "SSH_CLIENT": "192.0.2.7 50000 21001"}


def test_the_terminal_names_itself() -> None:
    assert command.environment({"TERM": "other"}, terminal="xterm-256color", peer=PEER)["TERM"] == "xterm-256color"
    assert command.environment({}, terminal="", peer=PEER)["TERM"] == "dumb"
    assert command.environment({}, terminal="a\nb", peer=PEER)["TERM"] == "dumb"


def test_a_command_is_one_word_whatever_it_holds() -> None:
    assert command.one_shot("echo '$1'; rm -rf \"x y\"", {"TERM": "a b"})[-3:] == (
        "TERM=a b",
        "--",
        "echo '$1'; rm -rf \"x y\"",
    )


def test_a_shell_is_what_has_no_command() -> None:
    assert command.shell({})[-1] == "--"
