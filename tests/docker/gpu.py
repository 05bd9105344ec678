"""GPUs that are none: a stand-in for NVIDIA's runtime hook, which drives Docker's real ``--gpus`` path.

dockerd offers the ``gpu`` capability if it finds ``nvidia-container-runtime-hook`` in its PATH when it starts, and lets
runc call that hook before a container that was given GPUs starts. Ours writes the indices that it was told, into a file
that the container can read; it makes no device, which is all that differs from a machine that has some.

Note that only the container's own command sees ``NVIDIA_VISIBLE_DEVICES``, what ``docker exec`` starts does not.
"""

import sys
from pathlib import Path

VISIBLE = "/etc/nvidia-visible"
"""Where a container reads which GPUs it got, as ``1,3``; absent if it got none."""
_HOOK = f"""#!{sys.executable} -IS
import json, pathlib, sys
bundle = pathlib.Path(json.load(sys.stdin)["bundle"])
config = json.loads((bundle / "config.json").read_text())
names = [each.partition("=")[2] for each in config["process"]["env"] if each.startswith("NVIDIA_VISIBLE_DEVICES=")]
pathlib.Path(bundle, config["root"]["path"], "{VISIBLE[1:]}").write_text(names[-1])
"""


def write_hook(folder: Path) -> Path:
    """Write the hook into a folder, to be put into a daemon's ``path``; returns the folder."""
    hook = folder / "nvidia-container-runtime-hook"
    hook.write_text(_HOOK)
    hook.chmod(0o755)
    return folder
