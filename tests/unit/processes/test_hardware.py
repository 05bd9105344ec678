"""What a host offers: the form of faked machines, ids that stay, and the host itself."""

import re
from pathlib import Path

import psutil
import pytest

from muster.config import GpuDefaults, MachineDeclaration, Settings
from muster.errors import SetupError
from muster.model.quantity import GIB
from muster.processes.hardware import (
    declared_machines,
    found_machine,
    offered_machines,
    parse_fake_gpus,
    short_gpu_name,
)


def test_fake_gpus_declare_machines() -> None:
    machines = parse_fake_gpus("2x4xRTX 4090@lab-a, 1x2xRTX 3090@lab-b,1x8xA100")
    assert [(each.gpu_name, each.gpu_num, each.data_center) for each in machines] == [
        ("RTX 4090", 4, "lab-a"),
        ("RTX 4090", 4, "lab-a"),
        ("RTX 3090", 2, "lab-b"),
        ("A100", 8, "local"),
    ]
    first = machines[0]
    assert (first.cpu_per_unit, first.memory_per_unit, first.cuda, first.price_milliyuan) == (16, 64 * GIB, 128, 1980)


def test_machine_ids_are_ten_hex_unique_and_stable() -> None:
    before = parse_fake_gpus("2x4xRTX 4090,1x2xRTX 3090", installation="one")
    after = parse_fake_gpus("3x4xRTX 4090,1x2xRTX 3090", installation="one")
    ids = [each.id for each in before]
    assert all(re.fullmatch(r"[0-9a-f]{10}", each) for each in ids)
    assert len(set(ids)) == 3
    assert [each.id for each in after if each.id in ids] == ids
    assert not {each.id for each in parse_fake_gpus("2x4xRTX 4090", installation="two")} & set(ids)


@pytest.mark.parametrize(
    "text", ["", "4xRTX 4090", "2x4x", "2x4x@lab", "ax4xL20", "2x4xL20@", "2x4xL20,", "2x4xL20@a b"]
)
def test_a_wrong_entry_is_told_the_form(text: str) -> None:
    with pytest.raises(SetupError, match=r"^fake_gpus: '.*' is not MACHINESxGPUSxMODEL"):
        parse_fake_gpus(text)


@pytest.mark.parametrize("text", ["0x4xL20", "2x0xL20"])
def test_a_machine_count_of_zero_is_refused(text: str) -> None:
    with pytest.raises(SetupError, match="at least 1"):
        parse_fake_gpus(text)


def test_declared_machines_take_what_they_leave_out_from_the_defaults() -> None:
    defaults = GpuDefaults(cpu_num=8, memory_gb=32, cuda=124, price=2.5)
    plain, told = declared_machines(
        [
            MachineDeclaration(gpu_name="L20", gpu_num=2),
            MachineDeclaration(gpu_name="L20", gpu_num=2, cpu_num=128, memory_gb=720, cuda=0, price=0, disk_gb=1),
        ],
        installation="one",
        defaults=defaults,
    )
    assert (plain.cpu_num, plain.memory_bytes, plain.cuda, plain.price_milliyuan) == (16, 64 * GIB, 124, 2500)
    assert (told.cpu_num, told.memory_bytes, told.cuda, told.price_milliyuan) == (128, 720 * GIB, 0, 0)
    assert plain.id != told.id


def test_a_declaration_replaces_what_would_be_found(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, fake_gpus="1x1xA", machines=(MachineDeclaration(gpu_name="B"),))
    assert [each.gpu_name for each in offered_machines(settings, "one")] == ["B", "A"]


def test_the_host_itself_is_offered_when_nothing_is_declared(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "not" / "there" / "yet", data_center="attic")
    (machine,) = offered_machines(settings, "one")
    assert machine.data_center == "attic"
    assert machine.memory_bytes == psutil.virtual_memory().total
    assert machine.gpu_num <= machine.cpu_num or machine.gpu_name != "CPU"
    assert machine == found_machine(settings, "another"), "a host's id does not depend on the installation"


def test_a_host_id_does_not_show_the_machine_id_and_works_without_one(tmp_path: Path) -> None:
    identity = tmp_path / "machine-id"
    identity.write_text("0123456789abcdef0123456789abcdef\n", encoding="ascii")
    settings = Settings(home=tmp_path)
    told = found_machine(settings, "one", identity).id
    assert told not in identity.read_text(encoding="ascii")
    assert told == found_machine(settings, "two", identity).id
    assert (
        found_machine(settings, "one", tmp_path / "absent").id != found_machine(settings, "two", tmp_path / "absent").id
    )


def test_gpus_are_named_as_people_ask_for_them() -> None:
    assert [short_gpu_name(each) for each in ("NVIDIA GeForce RTX 4090", "NVIDIA L20", "Tesla T4", "NVIDIA H200")] == [
        "RTX 4090",
        "L20",
        "Tesla T4",
        "H200",
    ]
