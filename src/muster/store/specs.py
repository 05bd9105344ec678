"""By which specification a container runs: that of its own version, with what holds for all versions at once.

An edit changes what containers are made of only for new ones; numbers, reuse, and how the deployment serves (health
check, drain, concurrency) are of the deployment as it is now.
"""

from muster.model.container import Container
from muster.model.deployment import Deployment, DeploymentSpec, with_present
from muster.store.port import Transaction


def spec_of(tx: Transaction, container: Container, deployment: Deployment) -> DeploymentSpec:
    """Return the specification that a container of the deployment was made from, as it holds now."""
    now = deployment.spec
    if container.version == deployment.version:
        return now
    version = tx.deployments.version(deployment.id, container.version)
    assert version is not None  # written with the deployment, and never deleted
    return with_present(version.spec, now)
