"""What monitoring is told: sums over all accounts, as Prometheus reads them.

In: one look at the store. Out: the text of one scrape. Nothing is counted in memory, so a restart loses nothing and a
second server tells the same; counters only ever grow because pruning keeps what rows counted. ``seconds_saved`` is a
gauge: it is held against the average fresh start, which moves, and a counter that falls would read as a restart.

Labels have few values: statuses and machines, never deployments, containers or accounts. A status that nothing is in
is told as 0, so that a graph of it does not break off.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from muster.model.container import ContainerStatus
from muster.model.deployment import DeploymentStatus
from muster.model.machine import Machine
from muster.store.port import ReuseFigures, Transaction

UNPLACED = "unplaced"
"""What the status of a container is called that has no machine yet."""


@dataclass(frozen=True, slots=True)
class Sums:
    """One look at everything. ``machines`` holds each one on offer, how many of its GPUs are taken, and its problem."""

    reuse: ReuseFigures
    pooled: int
    containers: Mapping[ContainerStatus | None, int]
    deployments: Mapping[DeploymentStatus, int]
    machines: tuple[tuple[Machine, int, str], ...]


def look(tx: Transaction) -> Sums:
    """Take the sums."""
    claims, problems = tx.containers.claims(), tx.machines.problems()
    return Sums(
        reuse=tx.containers.reuse_figures(),
        pooled=len(tx.containers.pooled()),
        containers=tx.containers.unfinished_counts(),
        deployments=tx.deployments.status_counts(),
        machines=tuple(
            (each, len(claims.get(each.id, ())), problems.get(each.id, "")) for each in tx.machines.offered()
        ),
    )


def text(sums: Sums) -> bytes:
    """Write one scrape."""
    registry = CollectorRegistry()
    registry.register(_Sums(sums))
    return generate_latest(registry)


class _Sums(Collector):
    def __init__(self, sums: Sums) -> None:
        self._sums = sums

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        yield from self._of_reuse()
        yield from self._of_statuses()
        yield from self._of_machines()

    def _of_reuse(self) -> Iterator[Metric]:
        reuse = self._sums.reuse
        yield CounterMetricFamily(
            "muster_container_starts", "Starts that might have reused a container.", value=reuse.starts
        )
        yield CounterMetricFamily("muster_container_reuses", "Starts that reused a container.", value=reuse.reuses)
        yield GaugeMetricFamily(
            "muster_reuse_saved_seconds",
            "How much sooner reuses ran than the average fresh start of their image, all together.",
            value=reuse.seconds_saved,
        )
        yield GaugeMetricFamily("muster_pooled_containers", "Containers that wait for reuse.", value=self._sums.pooled)

    def _of_statuses(self) -> Iterator[Metric]:
        containers = GaugeMetricFamily("muster_containers", "Containers that are not over.", labels=["status"])
        containers.add_metric([UNPLACED], self._sums.containers.get(None, 0))
        for status in ContainerStatus:
            if status is not ContainerStatus.SHUTDOWN:
                containers.add_metric([status.value], self._sums.containers.get(status, 0))
        yield containers
        deployments = GaugeMetricFamily("muster_deployments", "Deployments that are not deleted.", labels=["status"])
        for kind in DeploymentStatus:
            deployments.add_metric([kind.value], self._sums.deployments.get(kind, 0))
        yield deployments

    def _of_machines(self) -> Iterator[Metric]:
        labels = ["machine", "data_center", "gpu_name"]
        gpus = GaugeMetricFamily("muster_machine_gpus", "GPUs of the machines on offer.", labels=[*labels, "state"])
        usable = GaugeMetricFamily("muster_machine_usable", "Whether a machine's engine can be used.", labels=labels)
        for machine, taken, problem in self._sums.machines:
            names = [machine.id, machine.data_center, machine.gpu_name]
            gpus.add_metric([*names, "claimed"], taken)
            gpus.add_metric([*names, "idle"], max(0, machine.gpu_num - taken))
            usable.add_metric(names, float(not problem))
        yield gpus
        yield usable
