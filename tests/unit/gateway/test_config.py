"""``gateway.toml``: what it means, and one line for each mistake, which says what would be right."""

import re
from pathlib import Path
from typing import Any

import pytest

from muster.errors import SetupError
from muster.gateway.config import GatewayConfig, KeyTable, LimitsTable, RouteTable, TlsTable, load, read_bind

HASH = "ab" * 32
KEY = f'[[key]]\nname = "web"\nsha256 = "{HASH}"\n'


def read(folder: Path, text: str, **flags: Any) -> GatewayConfig:
    file = folder / "gateway.toml"
    file.write_text(text)
    return load(file, {"registry": "file:///r", **flags})


def error_of(folder: Path, text: str, **flags: Any) -> str:
    with pytest.raises(SetupError) as caught:
        read(folder, text, **flags)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(folder), "")


def test_nothing_needs_to_be_written() -> None:
    config = load(None, {"registry": "file:///r"})
    assert config.listen == ("127.0.0.1:7680",)
    assert config.drain_seconds == 30
    assert not config.needs_key


def test_flags_go_before_the_file(tmp_path: Path) -> None:
    config = read(tmp_path, 'account = "a"\nlisten = ["127.0.0.1:1"]', account="b", listen=None)
    assert config.account == "b"
    assert config.listen == ("127.0.0.1:1",)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("listn = []", "/gateway.toml: listn: unknown key; did you mean 'listen'?"),
        ('[[route]]\nservice = "a"\npathh = "/"', "/gateway.toml: route[0].pathh: unknown key; did you mean 'path'?"),
        ("[limits]\nhead_kb = 0", "/gateway.toml: limits.head_kb: 0 is not a number of KB from 1 to 1024"),
        ("listen = ['a']", "listen[0]: 'a' is not a list of addresses"),
        ("listen = ['127.0.0.1:70000']", "is not a list of addresses"),
        ("listen = []", "/gateway.toml: listen: [] is not a list of addresses"),
        ('[[route]]\npath = "v1"\nservice = "a"', "route[0].path: 'v1' is not a path like /v1/"),
        ('[[route]]\npath = "/v1"', "route[0].service: is missing; give the name of a service"),
        ('[[route]]\nservice = "a"\nstrip = true', "route[0].strip: there is no path of which"),
        (
            '[[route]]\npath = "/v1"\nservice = "a"\nstrip = "/v"',
            "route[0].strip: '/v' is not how the path '/v1' begins",
        ),
        ('[[route]]\npath = "/v1"\nservice = "a"\nstrip = 3', "route[0].strip: 3 is not true to take the path off"),
        ('[[route]]\nservice = "*"', 'route[0].service: "*" is what * stands for in the host'),
        ('[[route]]\nservice = "a"\nhost = "a:80"', "route[0].host: 'a:80' is not a host name"),
        ('[[route]]\nservice = "a"\nheader = {"a b" = "1"}', "is not a table of header names"),
        ('[[route]]\nservice = "a"\ndeadline = 0', "route[0].deadline: 0 is not a number of seconds above 0"),
        (KEY + KEY, "key[1].name: 'web' is key[0]'s already"),
        (KEY + KEY.replace("web", "app"), "key[1].sha256: is the same key as key[0]"),
        (KEY + "burst = 3", "key[0].burst: says nothing without requests_per_second"),
        (KEY + "concurrency = 0", "key[0].concurrency: 0 is not how many requests may be under way"),
        ("[tls]\ncertificate = '/c'", "tls.key: is missing; give the path of a PEM file"),
        ("require_key = true", "require_key: without a [[key]] nobody could get in"),
        ("= 3", "/gateway.toml: is not TOML"),
        ("a = " + "[" * 100_000, "/gateway.toml: is not TOML: maximum recursion depth exceeded"),
        ("processes = " + "9" * 5000, "/gateway.toml: is not TOML: Exceeds the limit"),
    ],
)
def test_a_mistake_is_one_line_that_says_where_and_what_would_be_right(tmp_path: Path, text: str, error: str) -> None:
    assert error in error_of(tmp_path, text)


def test_what_is_wrong_with_a_key_does_not_show_it(tmp_path: Path) -> None:
    error = error_of(tmp_path, '[[key]]\nname = "web"\nsha256 = "mgw_the-key-itself"')
    assert "key[0].sha256: what is there is not the SHA-256 of the key" in error
    assert "itself" not in error


def test_a_configuration_does_not_show_hashes_or_the_registry(tmp_path: Path) -> None:
    shown = repr(read(tmp_path, KEY, registry="redis://:secret@h"))
    assert HASH not in shown
    assert "secret" not in shown


def test_a_mistake_in_a_flag_names_the_flag() -> None:
    with pytest.raises(SetupError, match=r"^--processes: 0 is not a number of processes from 1 to 256$"):
        load(None, {"registry": "file:///r", "processes": 0})


def test_there_has_to_be_a_registry() -> None:
    with pytest.raises(SetupError, match="registry: is missing; name one by --registry"):
        load(None, {})


def test_what_is_wrong_is_said_once(tmp_path: Path) -> None:
    assert error_of(tmp_path, "listen = ['a']").count("is not a list of addresses") == 1


@pytest.mark.parametrize("listen", ["0.0.0.0:80", "[::]:80", "192.0.2.1:80"])
def test_nobody_listens_for_others_by_accident(tmp_path: Path, listen: str) -> None:
    assert "nobody has to show a key" in error_of(tmp_path, f'listen = ["{listen}"]')
    assert "nobody has to show a key" in error_of(tmp_path, f'listen = ["{listen}"]\nrequire_key = false\n{KEY}')
    assert read(tmp_path, f'listen = ["{listen}"]', open=True).is_open_to_others
    assert read(tmp_path, f'listen = ["{listen}"]\n{KEY}').needs_key


@pytest.mark.parametrize("listen", ["127.0.0.1:80", "127.8.0.1:80", "[::1]:80", "localhost:80", ":80"])
def test_on_loopback_no_key_is_needed(tmp_path: Path, listen: str) -> None:
    assert not read(tmp_path, f'listen = ["{listen}"]').is_open_to_others


def test_one_model_is_written_as_a_text_and_several_as_a_list(tmp_path: Path) -> None:
    config = read(tmp_path, '[[route]]\nmodel = "a"\nservice = "x"\n[[route]]\nmodel = ["b", "c"]\nservice = "y"')
    assert [each.model for each in config.route] == [("a",), ("b", "c")]


def test_a_hash_may_say_what_it_is(tmp_path: Path) -> None:
    assert read(tmp_path, KEY.replace(HASH, f"sha256:{HASH.upper()}")).key[0].sha256 == HASH


def test_what_a_worker_is_told_means_the_same(tmp_path: Path) -> None:
    text = f'[tls]\ncertificate = "/c"\nkey = "/k"\n[[route]]\npath = "/v1"\nservice = "a"\nstrip = true\n{KEY}'
    config = read(tmp_path, text)
    assert GatewayConfig.model_validate(config.model_dump(mode="json")) == config


def test_what_a_reload_cannot_change_is_named(tmp_path: Path) -> None:
    config = read(tmp_path, "")
    other = read(tmp_path, 'listen = ["127.0.0.1:1"]\ndrain_seconds = 1\n[tls]\ncertificate = "/c"\nkey = "/k"')
    assert config.differs_for_good(other) == ["listen", "tls"]


def test_an_access_log_means_the_same_in_every_process(tmp_path: Path) -> None:
    assert Path(read(tmp_path, 'access_log = "a.log"').access_log).is_absolute()
    assert read(tmp_path, 'access_log = ""').access_log == "off"


def test_the_hash_key_command_writes_what_the_file_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from muster.cli.gateway import key  # noqa: PLC0415
    from muster.gateway.keys import Caller, Keyring  # noqa: PLC0415
    from muster.gateway.reception import key_of  # noqa: PLC0415

    key("web")
    told = capsys.readouterr()
    secret = re.search(r"mgw_\S+", told.err)
    assert secret is not None
    assert secret[0] not in told.out
    config = read(tmp_path, told.out)
    caller = Keyring([key_of(config.key[0], None)], is_needed=True).caller([secret[0].encode()], [])
    assert isinstance(caller, Caller)
    assert caller.key is not None
    assert caller.key.name == "web"


def test_an_address_is_shown_as_in_a_url() -> None:
    assert str(read_bind("[::1]:80")) == "[::1]:80"
    assert str(read_bind(":80")) == "127.0.0.1:80"


def test_the_file_in_the_manual_can_be_read_and_names_every_key(tmp_path: Path) -> None:
    manual = Path(__file__).parents[3] / "docs" / "gateway.md"
    found = re.search(r"```toml\n(.*?)```", manual.read_text(), re.DOTALL)
    assert found is not None
    text = found[1]
    config = read(tmp_path, text)
    assert [each.service for each in config.route] == ["llama", "sd-turbo", "*"]
    assert config.limits == type(config.limits)(), "the manual shows the defaults"
    for table in (GatewayConfig, RouteTable, KeyTable, LimitsTable, TlsTable):
        for name in table.model_fields:
            assert re.search(rf"\b{name}\b", text), name
