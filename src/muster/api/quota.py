"""Quotas: how many GPUs and containers the running deployments of an account may want together.

What counts is what is wanted, not what runs: a container that waits for a machine has its place already, and one that
is to be replaced still has its own. A rollout's extra container and what ends slowly are above the quota for a moment.
Asked in the transaction of the write: writes are serialised, so any number of callers at once never exceed it.

A request that wants no more than before always passes, so that an account whose quota was lowered can still scale in.
"""

from dataclasses import dataclass

from muster.errors import Conflict
from muster.model.account import Quota
from muster.model.deployment import DeploymentSpec, DeploymentStatus, DeploymentType
from muster.model.ids import AccountId, DeploymentId
from muster.store.port import DeploymentQuery, Transaction, Window

_ALL = Window(0, 1_000_000)


@dataclass(frozen=True, slots=True)
class Usage:
    """How much is wanted at the same time."""

    gpu_num: int = 0
    container_num: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(self.gpu_num + other.gpu_num, self.container_num + other.container_num)


def usage_of(spec: DeploymentSpec) -> Usage:
    """Return the most that a running deployment wants at the same time."""
    containers = spec.replica_num
    if spec.type is DeploymentType.JOB:
        containers = min(containers, spec.parallelism_num)
    elif spec.type is DeploymentType.CONTAINER:
        containers = 1
    return Usage(containers * spec.requirements.gpu_num, containers)


def used(tx: Transaction, account_id: AccountId, *, without: DeploymentId | None = None) -> Usage:
    """Return what all running deployments of an account want, but for one."""
    query = DeploymentQuery(account_id, status=DeploymentStatus.RUNNING, window=_ALL)
    return sum((usage_of(each.spec) for each in tx.deployments.find(query).items if each.id != without), Usage())


def check_quota(tx: Transaction, owner: AccountId, deployment_id: DeploymentId | None, spec: DeploymentSpec) -> None:
    """Raise ``Conflict`` if ``spec`` is more than the owner may still want.

    ``deployment_id`` is the deployment that is to become so, ``None`` a new one; ask before it is written.
    """
    account = tx.accounts.get(owner)
    assert account is not None  # accounts are never removed
    quota = account.quota
    if quota == Quota():
        return
    before = None if deployment_id is None else tx.deployments.get(deployment_id)
    had = Usage() if before is None or not before.is_wanted else usage_of(before.spec)
    others, asked = used(tx, owner, without=deployment_id), usage_of(spec)
    _check("GPU", "GPUs", asked.gpu_num, had.gpu_num, others.gpu_num, quota.gpu_num)
    _check("容器", "containers", asked.container_num, had.container_num, others.container_num, quota.container_num)


def _check(noun: str, plural: str, asked: int, had: int, others: int, quota: int | None) -> None:  # noqa: PLR0917
    if quota is not None and asked > had and asked + others > quota:
        raise Conflict(
            f"超出{noun}配额: 申请 {asked}, 其他部署已用 {others}, 配额 {quota}"
            f" (quota of {plural}: {asked} asked, {others} used by other deployments, {quota} allowed)"
        )
