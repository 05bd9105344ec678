"""Which machines this host offers: faked, declared, or found.

In: the settings, and the installation's id. Out: ``Machine`` values for the store. Faked and declared machines
replace what would be found, so that a test rig or an operator's description is exactly what is offered. A host without
GPUs offers one unit per core, so that the product is usable on a laptop.

Machine ids are stable: of a found host they derive from ``/etc/machine-id`` (hashed, because that id is confidential);
of faked and declared ones from the installation, their place in the declaration and their model, so that raising the
count of one entry renames none of the others.

Foreign libraries (NVML, psutil) are touched in ``found_machine`` only; everything else is arithmetic on text.
"""

import hashlib
import os
import platform
import re
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path

from muster.config import GpuDefaults, MachineDeclaration, Settings
from muster.errors import SetupError
from muster.model.ids import MachineId
from muster.model.machine import CPU_ONLY, Machine
from muster.model.quantity import GIB

_FAKE = re.compile(r"(?P<machines>\d{1,5})x(?P<gpus>\d{1,4})x(?P<model>[^@]*[^@\s])(?:@(?P<data_center>[^@\s]+))?")
_FORM = "MACHINESxGPUSxMODEL or MACHINESxGPUSxMODEL@DATA_CENTER, like '2x4xRTX 4090@lab-a'"
_SALT = "muster machine id v1"
"""Part of every id's hash: changing it would rename every machine."""


def offered_machines(settings: Settings, installation: str) -> list[Machine]:
    """Return what this host offers under these settings, in a stable order.

    Raises ``SetupError`` when the declaration is wrong or the host's GPUs cannot be described as one machine.
    """
    offered = declared_machines(settings.machines, installation=installation, defaults=settings.gpu_defaults)
    if settings.fake_gpus:
        offered += parse_fake_gpus(settings.fake_gpus, installation=installation, defaults=settings.gpu_defaults)
    return offered or [found_machine(settings, installation)]


def parse_fake_gpus(text: str, *, installation: str = "", defaults: GpuDefaults | None = None) -> list[Machine]:
    """Read ``2x4xRTX 4090@lab-a,1x2xRTX 3090@lab-b``: two machines with four GPUs each, one with two.

    Without ``@`` the data center is ``local``. Raises ``SetupError`` naming the entry and the right form.
    """
    each_gpu = defaults or GpuDefaults()
    machines: list[Machine] = []
    for position, entry in enumerate(text.split(",")):
        match = _FAKE.fullmatch(entry.strip())
        if match is None:
            raise SetupError(f"fake_gpus: {entry.strip()!r} is not {_FORM}")
        count, gpu_num = int(match["machines"]), int(match["gpus"])
        if count < 1 or gpu_num < 1:
            raise SetupError(f"fake_gpus: {entry.strip()!r}: both numbers must be at least 1")
        model = match["model"].strip()
        machines += [
            Machine(
                id=_machine_id("fake", installation, f"{position}.{copy}", model),
                data_center=match["data_center"] or "local",
                gpu_name=model,
                gpu_num=gpu_num,
                cpu_num=gpu_num * each_gpu.cpu_num,
                memory_bytes=gpu_num * each_gpu.memory_gb * GIB,
                cuda=each_gpu.cuda,
                price_milliyuan=each_gpu.price_milliyuan,
            )
            for copy in range(count)
        ]
    return machines


def declared_machines(
    declarations: Sequence[MachineDeclaration], *, installation: str, defaults: GpuDefaults
) -> list[Machine]:
    """Return the machines of the ``[[machines]]`` tables; what they leave out follows from the GPU defaults."""
    return [
        Machine(
            id=_machine_id("declared", installation, str(position), each.gpu_name),
            data_center=each.data_center,
            gpu_name=each.gpu_name,
            gpu_num=each.gpu_num,
            cpu_num=each.cpu_num or each.gpu_num * defaults.cpu_num,
            memory_bytes=(each.memory_gb or each.gpu_num * defaults.memory_gb) * GIB,
            cuda=defaults.cuda if each.cuda is None else each.cuda,
            price_milliyuan=defaults.price_milliyuan if each.price is None else round(each.price * 1000),
            disk_bytes=each.disk_gb * GIB,
            devices=_devices(each),
        )
        for position, each in enumerate(declarations)
    ]


def _devices(declared: MachineDeclaration) -> tuple[str, ...]:
    """Return the GPUs of a declared machine that are really there, by the names that its driver knows them by."""
    if declared.devices and len(set(declared.devices)) != declared.gpu_num:
        raise SetupError(
            f"machines: {declared.gpu_name}: devices must name {declared.gpu_num} different GPUs, one for each of"
            f" gpu_num; it names {len(set(declared.devices))}"
        )
    return declared.devices


def found_machine(settings: Settings, installation: str, machine_id_file: Path = Path("/etc/machine-id")) -> Machine:
    """Return this host as NVML and psutil see it; without an NVIDIA GPU, one unit per core at no price."""
    try:
        import psutil  # noqa: PLC0415 only the server needs it
    except ImportError as error:
        raise SetupError("finding this host's hardware needs: pip install 'muster-gpu[server]'") from error
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    gpu_name, gpu_num, cuda = _nvidia_gpus() or (CPU_ONLY, cores, 0)
    existing = next(folder for folder in (settings.home, *settings.home.parents) if folder.exists())
    return Machine(
        id=_host_id(machine_id_file, installation),
        data_center=settings.data_center,
        gpu_name=gpu_name,
        gpu_num=gpu_num,
        cpu_num=cores,
        memory_bytes=int(psutil.virtual_memory().total),
        cuda=cuda,
        price_milliyuan=0 if gpu_name == CPU_ONLY else settings.gpu_defaults.price_milliyuan,
        disk_bytes=shutil.disk_usage(existing).total,
        devices=() if gpu_name == CPU_ONLY else tuple(map(str, range(gpu_num))),
        address=settings.reachable_host,
        cpu_arch="arm" if platform.machine().lower() in {"aarch64", "arm64"} else "x86",
    )


def short_gpu_name(name: str) -> str:
    """Return the name by which people ask for a GPU: ``NVIDIA GeForce RTX 4090`` is ``RTX 4090``."""
    return re.sub(r"^(NVIDIA\s+)?(GeForce\s+)?", "", name.strip()) or name


def _nvidia_gpus() -> tuple[str, int, int] | None:
    """Return model, count and highest CUDA version, or ``None`` where there is no NVIDIA driver or GPU."""
    try:
        import pynvml  # noqa: PLC0415 only the server needs it
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        names = {short_gpu_name(str(pynvml.nvmlDeviceGetName(handle))) for handle in handles}
        version = int(pynvml.nvmlSystemGetCudaDriverVersion_v2())
    except pynvml.NVMLError as error:
        raise SetupError(f"asking NVML for this host's GPUs failed: {error}; see nvidia-smi") from error
    finally:
        pynvml.nvmlShutdown()
    if not names:
        return None
    if len(names) > 1:
        # A machine has one model, and its GPU indices are the host's: two machines on one host would both begin at 0.
        raise SetupError(
            f"this host mixes GPU models ({', '.join(sorted(names))}): declare [[machines]] in muster.toml"
        )
    return names.pop(), len(handles), version // 1000 * 10 + version % 1000 // 10  # 12080 is CUDA 12.8


def _host_id(machine_id_file: Path, installation: str) -> MachineId:
    try:
        identity = machine_id_file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        identity = ""  # containers and fresh images often have none, or an empty one
    return _machine_id("host", identity or f"{installation} {socket.gethostname()}")


def _machine_id(*parts: str) -> MachineId:
    return MachineId(hashlib.sha256("\0".join((_SALT, *parts)).encode()).hexdigest()[:10])
