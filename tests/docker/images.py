"""Images made on the spot, without a registry: what one holds is a few files of this host.

An ``Image`` is layers (tar files) and the settings that a start takes from it. ``Daemon.load`` gives it to a daemon,
``Registry.push`` to a registry that a daemon then pulls it from. Layers of the same host's files have the same digest.

* ``busybox``: ``/bin/sh`` and friends, no bash, no libc. 2 MB.
* ``bash``: the same with a real ``/bin/bash`` and its libraries. 6 MB.
* ``sized``: another image under layers of random bytes, for pulls that take a while.
"""

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_ENVIRON = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",)
_FOLDERS = {"bin": 0o755, "etc": 0o755, "root": 0o700, "tmp": 0o1777, "usr": 0o755, "usr/bin": 0o755, "var": 0o755}
_FILES = {"etc/passwd": b"root:x:0:0:root:/root:/bin/sh\n", "etc/group": b"root:x:0:\n"}
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Layer:
    """A tar file, uncompressed, so that its digest is both the one of its content and the one it is sent by."""

    path: Path
    digest: str
    size_bytes: int

    @classmethod
    def of(cls, path: Path) -> "Layer":
        """Read a tar file's digest and size."""
        with path.open("rb") as file:
            return cls(path, f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}", path.stat().st_size)


@dataclass(frozen=True)
class Image:
    """What a daemon or a registry is given: layers, the lowest first."""

    layers: tuple[Layer, ...]
    environ: tuple[str, ...] = _ENVIRON
    command: tuple[str, ...] = ("/bin/sh",)

    def config(self) -> bytes:
        """Return the settings as a registry keeps them; their digest is the image's id."""
        machine = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
        text = {
            "architecture": machine,
            "os": "linux",
            "config": {"Env": list(self.environ), "Cmd": list(self.command)},
            "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in self.layers]},
        }
        return json.dumps(text).encode()

    def write_archive(self, path: Path, reference: str) -> None:
        """Write what ``docker load`` reads."""
        names = [f"{index}.tar" for index, _ in enumerate(self.layers)]
        manifest = [{"Config": "config.json", "RepoTags": [reference], "Layers": names}]
        with tarfile.open(path, "w") as archive:
            for name, layer in zip(names, self.layers, strict=True):
                archive.add(layer.path, name)
            _add_file(archive, "config.json", self.config())
            _add_file(archive, "manifest.json", json.dumps(manifest).encode())


def busybox(folder: Path) -> Image:
    """Make an image of busybox alone, with its layer below a folder."""
    return _of_programs(folder / "busybox.tar", ())


def bash(folder: Path) -> Image:
    """Make an image of busybox and a bash."""
    return _of_programs(folder / "bash.tar", (Path("/bin/bash"),))


def sized(folder: Path, base: Image, sizes_bytes: Sequence[int]) -> Image:
    """Put layers of random bytes of these sizes upon an image; no two calls make the same layer."""
    layers = []
    for size_bytes in sizes_bytes:
        name = os.urandom(4).hex()
        blob, path = folder / name, folder / f"{name}.tar"
        with blob.open("wb") as file:
            for begin in range(0, size_bytes, _CHUNK_BYTES):
                file.write(os.urandom(min(_CHUNK_BYTES, size_bytes - begin)))
        with tarfile.open(path, "w") as archive:
            archive.add(blob, f"random-{name}")
        blob.unlink()
        layers.append(Layer.of(path))
    return Image((*base.layers, *layers), base.environ, base.command)


def _of_programs(path: Path, programs: Sequence[Path]) -> Image:
    box = Path(shutil.which("busybox") or "/bin/busybox")
    applets = subprocess.run([box, "--list"], capture_output=True, text=True, check=True).stdout.split()
    with tarfile.open(path, "w") as archive:
        for name, mode in _FOLDERS.items():
            _add(archive, name, tarfile.DIRTYPE, mode)
        for name, content in _FILES.items():
            _add_file(archive, name, content)
        _add_program(archive, box, "bin/busybox")
        for applet in sorted(set(applets) - {"busybox"} - {program.name for program in programs}):
            _add(archive, f"bin/{applet}", tarfile.SYMTYPE, 0o777, link="busybox")
        _add(archive, "usr/bin/env", tarfile.SYMTYPE, 0o777, link="../../bin/busybox")
        for program in programs:
            _add_program(archive, program, f"bin/{program.name}")
    return Image((Layer.of(path),))


def _add_program(archive: tarfile.TarFile, program: Path, name: str) -> None:
    """Add a program with the libraries that it is linked to, where its loader looks for them."""
    _add_file(archive, name, program.read_bytes(), 0o755)
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    for word in listed.split():  # "name => /path (address)" and "/path/of/the/loader (address)"; none if it is static
        if word.startswith("/"):
            _add_file(archive, word.lstrip("/"), Path(word).read_bytes(), 0o755)


def _add_file(archive: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))


def _add(archive: tarfile.TarFile, name: str, kind: bytes, mode: int, link: str = "") -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.linkname = kind, mode, link
    archive.addfile(entry)
