"""Edits and rollouts, as methods of the client: what a deployment is changed to, and how far that is."""

from collections.abc import Callable, Mapping
from typing import Any

from muster.client import wire
from muster.client.values import CommandWarning, EditedDeployment, Rollout, Version

Call = Callable[..., Any]


class Rollouts:
    """Reached as ``client.rollouts``. ``dev`` and ``muster`` call the two families of paths."""

    def __init__(self, dev: Call, muster: Call) -> None:
        self._dev = dev
        self._muster = muster

    def edit(self, uuid: str, changes: Mapping[str, Any], *, version: str | None = None) -> EditedDeployment:
        """Change fields of AutoDL's create body; with ``version`` every container is made anew under that name."""
        body = {**changes, "deployment_uuid": uuid, **({} if version is None else {"version": version})}
        return _edited(self._dev("PUT", "/deployment", body, named=("deployment", uuid)))

    def status(self, uuid: str) -> Rollout:
        """Tell how far the present version is."""
        return _rollout(self._muster("GET", f"/deployments/{uuid}/rollout", named=("deployment", uuid)))

    def versions(self, uuid: str) -> list[Version]:
        """Return all versions, newest first."""
        found = self._muster("GET", f"/deployments/{uuid}/versions", named=("deployment", uuid))
        return [
            Version(
                version=each["version"],
                number=each["number"],
                created_at=wire.time(each["created_at"]),
                is_wanted=each["is_wanted"],
                is_stable=each["is_stable"],
                was_good=each["was_good"],
                container_num=each["container_num"],
                image_uuid=each["image_uuid"],
                cmd=each["cmd"],
            )
            for each in found["versions"]
        ]

    def pause(self, uuid: str) -> Rollout:
        """Replace no more containers for now."""
        return _rollout(self._muster("POST", f"/deployments/{uuid}/rollout/pause", named=("deployment", uuid)))

    def resume(self, uuid: str) -> Rollout:
        """Go on, or try again what has failed."""
        return _rollout(self._muster("POST", f"/deployments/{uuid}/rollout/resume", named=("deployment", uuid)))

    def undo(self, uuid: str, version: str | None = None) -> EditedDeployment:
        """Go back to a version; without one to the last good one, or the one before."""
        body = {} if version is None else {"version": version}
        path = f"/deployments/{uuid}/rollout/undo"
        return _edited(self._muster("POST", path, body, named=("version", version) if version else ("", "")))


def _edited(row: Mapping[str, Any]) -> EditedDeployment:
    return EditedDeployment(
        uuid=row["deployment_uuid"],
        version=row["version"],
        is_new_version=row["is_new_version"],
        is_paused=row["is_paused"],
        changed=tuple(row["changed"]),
        warnings=tuple(CommandWarning(each["code"], each["message"]) for each in row["warnings"]),
    )


def _rollout(row: Mapping[str, Any]) -> Rollout:
    return Rollout(
        uuid=row["deployment_uuid"],
        name=row["name"],
        state=row["state"],
        version=row["version"],
        stable_version=row["stable_version"],
        is_paused=row["is_paused"],
        failure=row["failure"],
        undo_version=row["undo_version"],
        wanted_num=row["wanted_num"],
        updated_num=row["updated_num"],
        ready_num=row["ready_num"],
        outdated_num=row["outdated_num"],
        message=row["message"],
    )
