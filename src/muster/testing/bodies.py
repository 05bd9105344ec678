"""AutoDL's create body with ranges so wide that every machine qualifies; tests narrow what they are about."""

from collections.abc import Mapping
from typing import Any

from muster.model.image import LOCAL_IMAGE


def create_body(
    name: str,
    *,
    replica_num: int = 1,
    cmd: str = "sleep infinity",
    template: Mapping[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Return the body of a ReplicaSet; ``template`` changes ``container_template``, ``more`` the top level."""
    return {
        "name": name,
        "deployment_type": "ReplicaSet",
        "replica_num": replica_num,
        "container_template": {
            "dc_list": [],
            "gpu_name_set": [],
            "gpu_num": 1,
            "cuda_v_from": 0,
            "cuda_v_to": 1000,
            "cpu_num_from": 1,
            "cpu_num_to": 1000,
            "memory_size_from": 1,
            "memory_size_to": 10_000,
            "price_from": 0,
            "price_to": 100_000,
            "image_uuid": LOCAL_IMAGE,
            "cmd": cmd,
            **(template or {}),
        },
        **more,
    }
