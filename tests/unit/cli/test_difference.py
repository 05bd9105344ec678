"""Differences of specifications name the field and never a secret."""

from muster.cli.difference import Difference, differences


def test_equal_specifications_do_not_differ() -> None:
    spec = {"a": 1, "b": {"c": [1, 2]}}
    assert differences(spec, {"b": {"c": [1, 2]}, "a": 1}) == []


def test_a_difference_is_named_by_its_dotted_field() -> None:
    before = {"replica_num": 1, "container_template": {"gpu_num": 1, "cmd": "a"}}
    after = {"replica_num": 1, "container_template": {"gpu_num": 2, "image": "i"}}
    assert differences(before, after) == [
        Difference("container_template.cmd", "'a'", "nothing"),
        Difference("container_template.gpu_num", "1", "2"),
        Difference("container_template.image", "nothing", "'i'"),
    ]


def test_the_value_of_a_variable_is_not_shown() -> None:
    (found,) = differences(
        {"container_template": {"env_vars": {"TOKEN": "old-secret"}}},
        {"container_template": {"env_vars": {"TOKEN": "new-secret"}}},
    )
    assert found == Difference("container_template.env_vars.TOKEN", "a value (not shown)", "a value (not shown)")


def test_a_block_that_only_one_side_has_differs() -> None:
    (found,) = differences({"service": {"health_check": None}}, {"service": {"health_check": {"port": 6006}}})
    assert found.field == "service.health_check.port"
