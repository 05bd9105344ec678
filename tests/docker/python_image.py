"""A Debian with Python and scikit-learn as an image, for a real service; made once per host, by debootstrap.

That takes two minutes and fetches about 200 MB of packages, so its one layer is kept in ``~/.cache/muster-tests`` (or
``MUSTER_TEST_CACHE``), named after the release and the packages; a lock lets only one process make it, and a rename is
the last step, so what is there is whole. ``python -m tests.docker.python_image`` makes it ahead and says so.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.docker.images import Image, Layer

PACKAGES = ("python3", "python3-sklearn")
"""What the digits service of the demo needs, too."""
_WITHOUT = (
    "./var/cache/apt",
    "./var/lib/apt/lists",
    "./usr/share/doc",
    "./usr/share/man",
    "./usr/share/locale",
    "./dev",
)


def python(packages: Sequence[str] = PACKAGES) -> Image:
    """Return a minimal Debian of this host's release with these packages; minutes the first time, then at once."""
    return Image((Layer.of(_made(packages)),), command=("/usr/bin/python3",))


def _made(packages: Sequence[str]) -> Path:
    cache = Path(os.environ.get("MUSTER_TEST_CACHE") or Path.home() / ".cache" / "muster-tests")
    cache.mkdir(parents=True, exist_ok=True)
    release = _release()
    name = hashlib.sha256(" ".join((release, *packages, *_WITHOUT)).encode()).hexdigest()[:12]
    made = cache / f"debian-{release}-{name}.tar"
    with made.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            sys.stderr.write(f"making Debian {release} with {', '.join(packages)} in {made}: once, about two minutes\n")
            with tempfile.TemporaryDirectory(dir=cache, ignore_cleanup_errors=True) as scratch:
                _make(Path(scratch), release, packages).rename(made)
    return made


def _make(scratch: Path, release: str, packages: Sequence[str]) -> Path:
    tree, tar, said = scratch / "tree", scratch / "layer.tar", scratch / "said"
    with said.open("wb") as output:
        options = ["--variant=minbase", f"--include={','.join(packages)}"]
        done = subprocess.run(
            ["debootstrap", *options, release, tree],
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    if done.returncode != 0:
        raise RuntimeError(f"debootstrap {release}:\n" + "\n".join(said.read_text(errors="replace").splitlines()[-10:]))
    leave = [f"--exclude={path}/*" for path in _WITHOUT]
    subprocess.run(["tar", "--numeric-owner", "--sort=name", *leave, "-C", tree, "-cf", tar, "."], check=True)
    shutil.rmtree(tree)
    return tar


def _release() -> str:
    lines = Path("/etc/os-release").read_text().splitlines()
    return next(line.partition("=")[2].strip('"') for line in lines if line.startswith("VERSION_CODENAME="))


if __name__ == "__main__":
    python()
