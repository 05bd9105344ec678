"""A world with an ingress: a harness whose containers have addresses, and eyes for what a drain says."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from muster.controller.plane import FrontOptions
from muster.controller.ports import PortRanges
from muster.model.container import Container
from muster.model.event import EventKind
from muster.model.front import Front
from muster.planner.lifecycle import Terms
from muster.store.port import EventQuery, Window
from muster.testing.harness import OPTIONS, Harness
from muster.vault import Vault

FRONT = FrontOptions(Front("gpu.example"), PortRanges(range(20000, 20010), range(25000, 25005)), token="t")
TERMS = Terms(drain_seconds=30.0, keep_stopped_seconds=600.0)


def fronted(folder: Path, **options: object) -> Harness:
    """Return a harness with an ingress of five containers' ports."""
    chosen = replace(OPTIONS, **{"front": FRONT, "terms": TERMS, **options})  # type: ignore[arg-type]
    return Harness(folder, options=chosen, vault=Vault(folder / "secret.key"))


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    with fronted(tmp_path) as harness:
        yield harness


def said(harness: Harness, container: Container, *kinds: EventKind) -> list[str]:
    """Return what events of some kinds say of a container, oldest first; statuses by their word."""
    query = EventQuery(
        harness._account, container_uuid=container.uuid, kinds=frozenset(kinds), window=Window(0, 10_000)
    )
    found = reversed(harness.read(lambda tx: tx.events.find(query)).items)
    return [each.status.value if each.kind is EventKind.STATUS else each.message for each in found]


def now(harness: Harness, container: Container) -> Container:
    """Return a container as it is now."""
    found = harness.read(lambda tx: tx.containers.get(container.id))
    assert found is not None
    return found
