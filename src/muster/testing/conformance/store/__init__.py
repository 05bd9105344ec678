"""What every store must do: the sentences of ``muster.store.port``, as tests, a file for each noun.

Subclass ``StoreConformance`` in a test module and give it a fixture ``open_store``: a function that opens the same,
at first empty, database each time it is called, so that a test can open it twice, or again. Stores run on threads of
their own here; a test that must hold a transaction open blocks that thread.
"""

from muster.testing.conformance.store.accounts import AccountConformance
from muster.testing.conformance.store.addresses import AddressConformance
from muster.testing.conformance.store.audit import AuditConformance
from muster.testing.conformance.store.blacklist import BlacklistConformance
from muster.testing.conformance.store.changes import ChangesConformance
from muster.testing.conformance.store.containers import ContainerConformance
from muster.testing.conformance.store.deployments import DeploymentConformance
from muster.testing.conformance.store.events import EventConformance
from muster.testing.conformance.store.held_images import HeldImageConformance
from muster.testing.conformance.store.images import ImageConformance
from muster.testing.conformance.store.machines import MachineConformance
from muster.testing.conformance.store.pruning import PruningConformance
from muster.testing.conformance.store.transactions import TransactionConformance
from muster.testing.conformance.store.versions import VersionConformance
from muster.testing.conformance.store.world import START, OpenStore, a_spec

__all__ = ["START", "OpenStore", "StoreConformance", "a_spec"]


class StoreConformance(
    TransactionConformance,
    ChangesConformance,
    AccountConformance,
    DeploymentConformance,
    ContainerConformance,
    MachineConformance,
    ImageConformance,
    HeldImageConformance,
    EventConformance,
    AddressConformance,
    AuditConformance,
    BlacklistConformance,
    VersionConformance,
    PruningConformance,
):
    """Every sentence of the port. Subclass it as ``Test…`` beside a fixture ``open_store``."""
