"""What became of a version: whether it has proved itself, or is to be given up, and why.

A version is *proven* once something of it has been ready for some seconds: what listens before it loads, and fails of
what it loads, is ready for a moment, too, and nothing that serves may be ended on the strength of that. It is good once
it is proven and every wanted container is of it and ready. It has failed when its containers die young three
times since the edit, or when one has run, or has waited for a machine, for as long as the deployment allows without
becoming ready. How long an image takes to be fetched is not held against it, nor what a machine took with it.

Where there are not machines enough, that is not held against a version that has found one: it is good when it is ready
wherever it did, has waited as long for more, and no others are left.

Only a version that something good can take the place of is given up: without a last good one (nothing of it was ready
when the edit came) its containers are simply tried again, and there is time to look into them.
"""

import datetime
from collections.abc import Iterable
from dataclasses import dataclass

from muster.model.container import Container, ContainerStatus
from muster.model.deployment import Deployment
from muster.planner.backoff import rounds, young_deaths
from muster.planner.plan import Situation

STEADY_AFTER = datetime.timedelta(seconds=10)
"""Long enough for most of what fails after it listens; short beside a start. The first of a version waits for it."""
ATTEMPTS = 3
"""One death may be the machine's fault, and the next start avoids that; a third one elsewhere is the version's. What
dies together dies of one cause, so rounds are counted (``backoff``)."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Good, failed with a reason, or neither yet; ``wake_at`` is when time alone would change that."""

    is_good: bool = False
    failure: str = ""
    wake_at: datetime.datetime | None = None


def judge(situation: Situation, current: Iterable[Container], *, is_alone: bool) -> Verdict:
    """Judge the present version by its live containers; ``is_alone``: there are no others."""
    deployment, current = situation.deployment, list(current)
    if deployment.failure or deployment.is_paused or deployment.stable_version == deployment.version:
        return Verdict()
    is_all_there = is_alone and 0 < len(current) == deployment.spec.replica_num
    is_all_ready = is_all_there and all(each.is_ready for each in current)
    if deployment.stable_version is None:  # there is nothing to protect
        return Verdict(is_good=is_all_ready)
    steady_at = proven_at(current, situation.now)
    is_proven = steady_at is not None and steady_at <= situation.now
    if is_all_ready and is_proven:
        return Verdict(is_good=True)
    own = [each for each in situation.containers if each.version == deployment.version]
    young = young_deaths(own, deployment.edited_at, situation.now)
    deaths = [each for each in young if each.reason is None or not each.reason.is_outside]
    if rounds(deaths) >= ATTEMPTS:
        return Verdict(
            failure=f"containers of {deployment.version} died young {rounds(deaths)} times; {_last_words(deaths[-1])}"
        )
    overdue, wake_at = _overdue(situation, current)
    if is_all_ready and not is_proven:
        wake_at = steady_at
    if overdue is None:
        return Verdict(wake_at=wake_at)
    if overdue.status is not None or all(each.placement is None for each in (*own, *current)):
        return Verdict(failure=_not_in_time(overdue, deployment))
    placed = [each for each in current if each.status is not None]
    is_good = is_all_there and is_proven and all(each.is_ready for each in placed)
    return Verdict(is_good=is_good, wake_at=wake_at)


def proven_at(current: Iterable[Container], now: datetime.datetime) -> datetime.datetime | None:
    """Return when these containers prove their version, if they stay ready; ``None`` while nothing is ready."""
    since = [each.ready_at or each.created_at for each in current if each.is_ready]
    # One of the future is of a clock that was set back since: to catch up may take it years.
    return min((now if at > now else at + STEADY_AFTER for at in since), default=None)


def _overdue(situation: Situation, current: Iterable[Container]) -> tuple[Container | None, datetime.datetime | None]:
    """Return what should have become ready by now, placed ones first; and when the next should."""
    deployment, watched = situation.deployment, situation.watched_since
    begun_at = deployment.edited_at
    if watched is not None and begun_at < watched <= situation.now:  # nothing becomes ready while nobody probes
        begun_at = watched
    overdue, wake_at = None, None
    for each in current:
        since = _waits_since(each)
        if since is None or each.version != deployment.version:
            continue
        due_at = max(since, begun_at) + _allowed(deployment)
        if due_at > situation.now:
            wake_at = due_at if wake_at is None else min(wake_at, due_at)
        elif overdue is None or overdue.status is None:
            overdue = each
    return overdue, wake_at


def _allowed(deployment: Deployment) -> datetime.timedelta:
    return datetime.timedelta(seconds=deployment.spec.service.ready_within_seconds)


def _waits_since(container: Container) -> datetime.datetime | None:
    """Return since when it could have become ready, or have got a machine."""
    if container.ready_at is not None:
        return None
    if container.status is None:
        return container.created_at
    return container.started_at if container.status is ContainerStatus.RUNNING else None


def _last_words(death: Container) -> str:
    reason = "error" if death.reason is None else death.reason.value
    code = "" if death.exit_code is None else f" (exit code {death.exit_code})"
    said = f": {death.message}" if death.message else ""
    return f"the last: {death.uuid}: {reason}{code}{said}"


def _not_in_time(container: Container, deployment: Deployment) -> str:
    version, seconds = deployment.version, f"{deployment.spec.service.ready_within_seconds:g} s"
    if container.status is None:
        return f"no machine was found for a container of {version} within {seconds}"
    return f"container {container.uuid} of {version} runs, but was not ready within {seconds}"
