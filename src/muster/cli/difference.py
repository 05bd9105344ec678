"""How two deployments' specifications differ: pure, field by dotted field, with nothing secret in the answer."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_TEMPLATE = "container_template."
_RUN = frozenset(
    {
        *(_TEMPLATE + name for name in ("image_uuid", "cmd", "gpu_num")),
        "service_6006_port_protocol",
        "service_6008_port_protocol",
    }
)
"""What a container is made of, besides its variables."""
_FILTERS = tuple(_TEMPLATE + name for name in ("dc_list", "gpu_name_set", "cuda_v", "cpu_num", "memory_size", "price"))
"""Which machines qualify."""
SECRET = "container_template.env_vars"  # noqa: S105 it is where secrets are, not one


@dataclass(frozen=True, slots=True)
class Difference:
    """One field that is ``before`` in the deployment and ``after`` in the file, as text."""

    field: str
    before: str
    after: str

    @property
    def effect(self) -> str:
        """What the change means for containers that run."""
        if self.field in _RUN or self.field.startswith(SECRET):
            return "replaces containers"
        if self.field.startswith(_FILTERS):
            return "replaces containers that no longer match"
        return "holds at once"

    def __str__(self) -> str:
        if self.before == self.after:
            return f"{self.field} is another value (not shown)"
        return f"{self.field} is {self.before}, the file says {self.after}"


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """Return the fields that differ, by name; what only one side has is ``nothing`` on the other."""
    old, new = dict(_flat(before)), dict(_flat(after))
    return [
        Difference(field, _text(field, old.get(field)), _text(field, new.get(field)))
        for field in sorted(old.keys() | new.keys())
        if old.get(field) != new.get(field)
    ]


def _flat(spec: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in spec.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _text(field: str, value: Any) -> str:
    if value is None:
        return "nothing"
    return "a value (not shown)" if field.startswith(SECRET) else repr(value)
