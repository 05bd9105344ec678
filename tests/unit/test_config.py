"""Settings: whose word counts, where it came from, and what a wrong one is told."""

import datetime
from pathlib import Path

import pytest

from muster.config import Settings, load_settings
from muster.errors import InvalidSpec, SetupError
from muster.model.quantity import cuda_number


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("PORT", "HOST", "ENGINE", "FAKE_GPUS", "ADMIN_TOKEN", "CONFIG", "MACHINES", "REGISTRY"):
        monkeypatch.delenv(f"MUSTER_{name}", raising=False)
    monkeypatch.setenv("MUSTER_HOME", str(tmp_path))
    return tmp_path


def write(home: Path, text: str) -> Path:
    path = home / "muster.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_serve_on_loopback_from_the_home(home: Path) -> None:
    settings = load_settings()
    assert (settings.url, settings.engine, settings.longest_drain_seconds) == ("http://127.0.0.1:7600", "auto", 30.0)
    assert settings.registry_url == f"file://{home}/registry"
    assert settings.tzinfo == datetime.timezone(datetime.timedelta(hours=8))


def test_flags_beat_variables_which_beat_the_file_which_beats_defaults(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(home, 'port = 1\nhost = "a"\nengine = "docker"\n')
    monkeypatch.setenv("MUSTER_PORT", "2")
    monkeypatch.setenv("MUSTER_HOST", "b")
    settings = load_settings({"port": 3, "host": None})
    assert (settings.port, settings.host, settings.engine, settings.log_level) == (3, "b", "docker", "info")
    origins = {name: origin for name, (_, origin) in settings.shown().items()}
    assert [origins[name] for name in ("port", "host", "engine", "log_level")] == [
        "--port",
        "MUSTER_HOST",
        str(path),
        "default",
    ]


def test_a_named_file_may_lie_anywhere_and_name_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUSTER_HOME")
    path = tmp_path / "elsewhere.toml"
    path.write_text(f'home = "{tmp_path}/h"\n', encoding="utf-8")
    assert load_settings(config=path).home == tmp_path / "h"


def test_machines_are_declared_in_yuan_and_gigabytes(home: Path) -> None:
    write(home, '[[machines]]\ngpu_name = "L20"\ngpu_num = 8\ncuda = 12.4\nprice = 2.5\nmemory_gb = 720\n')
    (machine,) = load_settings().machines
    assert (machine.gpu_name, machine.cuda, machine.price, machine.memory_gb) == ("L20", 124, 2.5, 720)


def test_the_admin_token_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSTER_ADMIN_TOKEN", "sesame-open")
    settings = load_settings()
    assert "sesame" not in repr(settings)
    assert "sesame" not in str(settings.shown())


def test_a_child_reads_the_same_settings_from_the_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home, '[[machines]]\ngpu_name = "L20"\n[gpu_defaults]\nprice = 3\n')
    given = {"port": 7, "admin_token": "sesame-open", "fake_gpus": "1x1xA", "file_storage": "/srv/files"}
    parent = load_settings(given)
    (home / "muster.toml").unlink()
    for name, value in parent.environment().items():
        monkeypatch.setenv(name, value)
    assert load_settings().model_dump() == parent.model_dump()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("port = 'abc'", "{path}: port: 'abc' is not a port number from 0 to 65535 (0: any free one)"),
        ("port = 70000", "{path}: port: 70000 is not a port number from 0 to 65535 (0: any free one)"),
        ("prot = 7600", "{path}: prot: unknown key; did you mean 'port'?"),
        ("engine = 'podman'", "{path}: engine: 'podman' is not auto, local or docker"),
        (
            "broker_url = 'http://a.lab'",
            "{path}: broker_url: 'http://a.lab' is not addresses of brokers, like tls://a.lab:7690,tls://b.lab:7690",
        ),
        ("time_zone = 'CST'", "{path}: time_zone: 'CST' is not an offset like +08:00"),
        (
            "file_storage = ''",
            "{path}: file_storage: '' is not the path of a mounted folder that holds .muster-storage",
        ),
        (
            "public_data = 7",
            "{path}: public_data: 7 is not the path of a folder that all containers may read at /root/autodl-pub",
        ),
        ("admin_token = 'short'", "{path}: admin_token: the value (secret) is not a token of at least 8 characters"),
        (
            "[[machines]]\ngpu_num = 2",
            "{path}: machines[0].gpu_name: is missing; give a GPU model, as users will ask for it",
        ),
        ("[[machines]]\ngpu_name='A'\ngpu_nun=2", "{path}: machines[0].gpu_nun: unknown key; did you mean 'gpu_num'?"),
        ("gpu_defaults.cuda = 'x'", "{path}: gpu_defaults.cuda: 'x' is not a CUDA version like 12.8 (or 128)"),
        ("home = '/x'", "{path}: home: the file lies in the home folder; use --home or MUSTER_HOME"),
        ("port =", "{path}: is not TOML: Invalid value (at end of document)"),
    ],
)
def test_a_wrong_file_is_told_file_key_and_what_would_be_right(home: Path, text: str, message: str) -> None:
    path = write(home, text)
    with pytest.raises(SetupError) as caught:
        load_settings()
    assert str(caught.value) == message.format(path=path)


def test_a_wrong_variable_or_flag_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SetupError, match=r"^--engine: 'x' is not auto, local or docker$"):
        load_settings({"engine": "x"})
    monkeypatch.setenv("MUSTER_DRAIN_SECONDS", "soon")
    with pytest.raises(SetupError, match=r"^MUSTER_DRAIN_SECONDS: 'soon' is not a number of seconds"):
        load_settings()
    monkeypatch.setenv("MUSTER_MACHINES", "[{")
    with pytest.raises(SetupError, match="tables are written as JSON"):
        load_settings()


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="there is no such file"):
        load_settings(config=tmp_path / "absent.toml")


def test_bare_settings_do_not_read_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MUSTER_PORT", "1234")
    assert Settings(home=tmp_path).port == 7600


def test_cuda_versions_lose_their_dot() -> None:
    assert [cuda_number(each) for each in (12.8, "12.8", 128, 12, "11.0", 0, 1000)] == [
        128,
        128,
        128,
        120,
        110,
        0,
        1000,
    ]
    for wrong in ("", "new", "12.85", -1, "1.2.3"):
        with pytest.raises(InvalidSpec):
            cuda_number(wrong)


def test_a_password_in_the_registrys_url_is_not_shown(tmp_path: Path) -> None:
    settings = load_settings({"home": tmp_path, "registry": "redis://muster:hunter2@cache:6379/0?prefix=lab"})
    assert settings.shown()["registry"] == ("redis://cache:6379/0", "--registry")
    assert "hunter2" in settings.registry_url


def test_the_broker_is_reached_as_the_host_is(home: Path) -> None:
    assert load_settings().broker_public_host == "127.0.0.1"
    assert load_settings({"host": "0.0.0.0"}).broker_public_host == "127.0.0.1"
    assert load_settings({"host": "10.0.0.7"}).broker_public_host == "10.0.0.7"
    write(home, 'public_host = "gpu1.lab"\nbroker_host = "0.0.0.0"\nbroker_url = "tls://a.lab:1, unix:///run/b"\n')
    settings = load_settings()
    assert (settings.broker_public_host, settings.broker_listen_host) == ("gpu1.lab", "0.0.0.0")
    assert settings.broker_url == "tls://a.lab:1,unix:///run/b"
    assert settings.environment()["MUSTER_BROKER_URL"] == settings.broker_url
