"""``apply -f FILE``: make what runs be what a file says, after showing what that means.

A name that no running deployment has is created. One that has it is compared with the file, field by field, both
sides spelled out by the server: equal is nothing to do, another number of replicas is a scale, anything else an edit,
of which each field says whether containers are replaced for it.

An image may be named as for Docker, by its reference; the catalogue learns it on the way, which is asked for first.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from muster.cli.connection import connected
from muster.cli.difference import Difference, differences
from muster.cli.estimate import Estimate, estimate
from muster.cli.names import find_image
from muster.cli.prompt import Yes, agreed
from muster.cli.view import Column, Format, Output, note, print_table, report, say, yuan
from muster.errors import ApiError, InvalidSpec, NotFound, SetupError
from muster.model.ids import is_image_uuid
from muster.model.reference import canonical

if TYPE_CHECKING:
    from muster.cli.spec.deployment import Reading
    from muster.cli.spec.document import Value
    from muster.client import Client, Deployment, EditedDeployment

REPLICAS = "replica_num"
REPLICA_SET = "ReplicaSet"
WRONG_PARAMETER = "RequestParameterIsWrong"
"""The code of the API for a field that cannot be; its message begins with the field."""

Row = tuple[str, str, str]
COLUMNS: tuple[Column[Row], ...] = (
    Column("FIELD", lambda row: row[0]),
    Column("VALUE", lambda row: row[1]),
    Column("AUTODL FIELD", lambda row: row[2]),
)
DIFFERENCE: tuple[Column[Difference], ...] = (
    Column("FIELD", lambda row: row.field),
    Column("NOW", lambda row: row.before),
    Column("FILE", lambda row: row.after),
    Column("EFFECT", lambda row: row.effect),
)


@connected
def apply(
    client: "Client",
    file: Annotated[Path, typer.Option("--file", "-f", help="Deployment file, YAML or JSON; - is standard input.")],
    yes: Yes = False,
    output: Output = Format.TABLE,
) -> None:
    """Create a deployment from a file, or change the one of that name to what the file says."""
    reading = _read(file)
    template = dict(reading.body["container_template"])
    template["image_uuid"] = _image_uuid(client, template["image_uuid"], yes=yes)
    body = {**reading.body, "container_template": template}
    wanted = _checked(client, body, file, reading)
    name = str(body["name"])
    existing = [each for each in client.deployments(name=name, status="running") if each.name == name]
    if len(existing) > 1:
        uuids = ", ".join(each.uuid for each in existing)
        raise InvalidSpec("name", f"{len(existing)} running deployments are called {name!r}: {uuids}; rename or delete")
    if existing:
        _update(client, existing[0], wanted, (file, reading), yes=yes, output=output)
        return
    if output is Format.TABLE or not yes:
        _draw(body, reading.body["container_template"]["image_uuid"], estimate(body, client.machines()), output)
    if not agreed(f"Create {name}?", yes=yes):
        sys.exit(1)
    uuid = client.create_deployment(body)
    report("create", name, uuid, f"created; follow it with: muster events {uuid} -f", output)


def _update(
    client: "Client",
    deployment: "Deployment",
    wanted: Mapping[str, Any],
    source: "tuple[Path, Reading]",
    *,
    yes: bool,
    output: Format,
) -> None:
    changed = differences(client.deployment(deployment.uuid).spec, wanted)
    if not changed:
        report("none", deployment.name, deployment.uuid, "nothing to do, it is as the file says", output)
        return
    if any(each.field != REPLICAS for each in changed):
        _edit(client, deployment, wanted, changed, source, yes=yes, output=output)
        return
    replicas = int(wanted[REPLICAS])
    step = f"{deployment.replica_num} -> {replicas} replicas"
    if not agreed(f"Scale {deployment.name} {deployment.uuid}, {step}?", yes=yes):
        sys.exit(1)
    client.scale_deployment(deployment.uuid, replicas)
    report("scale", deployment.name, deployment.uuid, step, output)


def _edit(
    client: "Client",
    deployment: "Deployment",
    wanted: Mapping[str, Any],
    changed: Sequence[Difference],
    source: "tuple[Path, Reading]",
    *,
    yes: bool,
    output: Format,
) -> None:
    if any(each.field == "deployment_type" for each in changed):
        for each in changed:
            note(f"error: {_refusal(each, *source)}")
        note("error: the type cannot change; use another name, or: muster delete " + deployment.uuid)
        sys.exit(1)
    if output is Format.TABLE:
        print_table(changed, DIFFERENCE)
    elif not yes:
        for each in changed:
            note(f"{each.field}: {each.before} -> {each.after}; {each.effect}")
    if not agreed(f"Edit {deployment.name} {deployment.uuid}?", yes=yes):
        sys.exit(1)
    edited = client.rollouts.edit(deployment.uuid, wanted)
    report("edit", deployment.name, deployment.uuid, f"version {edited.version}{_next(deployment, edited)}", output)


def _next(deployment: "Deployment", edited: "EditedDeployment") -> str:
    """Say what becomes of the containers, and what to type to see or to change it."""
    if not edited.is_new_version:
        return ""
    if deployment.type != REPLICA_SET:
        return f": its next containers are of it, those that run come to their end; muster events {deployment.uuid} -f"
    if edited.is_paused:
        return f", paused; to go on: muster rollout resume {deployment.uuid}"
    return f", follow it with: muster rollout status {deployment.uuid} -w"


def _read(file: Path) -> "Reading":
    from muster.cli.spec.deployment import read_deployment  # noqa: PLC0415 YAML is loaded only here

    try:
        source = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SetupError(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SetupError(f"{file}: is not UTF-8 text: {error.reason}") from error
    reading = read_deployment(source, os.environ)
    for problem in reading.problems:
        note(f"error: {problem.at(str(file))}")
    if reading.problems:
        sys.exit(1)
    return reading


def _checked(client: "Client", body: Mapping[str, Any], file: Path, reading: "Reading") -> Mapping[str, Any]:
    """Return the body as the server understands it; what it refuses or warns of is told with the line that says it."""
    try:
        checked = client.examine_deployment(body)
    except ApiError as error:
        field, colon, reason = error.msg.partition(": ")
        place = _place(field, reading)
        if error.code != WRONG_PARAMETER or not colon or place is None:
            raise
        raise InvalidSpec(f"{file}:{place.line}: {place.path}", reason) from error
    place = _place("container_template.cmd", reading)
    for warning in checked.warnings:
        note(f"warning: {file}:{place.line if place else 1}: cmd: {warning.message}")
    return checked.spec


def _image_uuid(client: "Client", image: str, *, yes: bool) -> str:
    """Return the uuid of an image that is named by name or uuid, or that the catalogue can learn from its reference."""
    if is_image_uuid(image):
        return image
    try:
        return find_image(client, image).uuid
    except NotFound:
        return _learnt(client, image, yes=yes)


def _learnt(client: "Client", image: str, *, yes: bool) -> str:
    """Add a reference to the catalogue under its own name; a single word is rather a misspelt name."""
    if not any(mark in image for mark in "/:@"):
        hint = f"see: muster images; an image of a registry is written with its tag, like {image}:latest"
        raise InvalidSpec("image", f"none is called {image!r} ({hint})")
    try:
        reference = canonical(image)
    except InvalidSpec as error:
        raise InvalidSpec("image", f"none is called {image!r}, and it is no reference: {error.reason}") from error
    for each in client.catalogue():
        if each.name == reference:
            return each.uuid
    if not agreed(f"Image {reference} is not in the catalogue. Add it?", yes=yes):
        sys.exit(1)
    added = client.add_image(reference, reference).image
    note(f"image {reference} added to the catalogue: {added.uuid}")
    return added.uuid


def _refusal(difference: Difference, file: Path, reading: "Reading") -> str:
    """Say which field of the file asks for a change, and what it is now."""
    place = _place(difference.field, reading)
    return f"{file}: {difference}" if place is None else f"{file}:{place.line}: {place.path}: {difference}"


def _place(field: str, reading: "Reading") -> "Value | None":
    """Return what in the file says a field of the wire, or the block that it belongs to."""
    while field and field not in reading.places:
        field = field.rpartition(".")[0]
    return reading.places.get(field)


def _draw(body: Mapping[str, Any], image: str, expected: Estimate, output: Format) -> None:
    """Show what would be created; with JSON wanted only a word to the person who is asked."""
    if output is Format.JSON:
        note(_summary(expected))
        return
    print_table(_rows(body, image), COLUMNS)
    say(_summary(expected))


def _summary(expected: Estimate) -> str:
    strangers = "".join(
        f"; no machine has {model}" + (f", did you mean {close}?" if close else "")
        for model, close in expected.strangers
    )
    if expected.lowest_milliyuan is None or expected.highest_milliyuan is None:
        return f"no machine on offer qualifies: it will wait until one does (see: muster machines){strangers}"
    prices = sorted({yuan(expected.lowest_milliyuan), yuan(expected.highest_milliyuan)}, key=float)
    qualifying = "1 machine qualifies" if expected.machine_num == 1 else f"{expected.machine_num} machines qualify"
    fitting = f"{expected.fitting} of {expected.wanted} containers fit now; {qualifying}"
    return f"{' to '.join(prices)} yuan per hour in all; {fitting}{strangers}"


def _rows(body: Mapping[str, Any], image: str) -> list[Row]:
    """Return a row for each thing that the file says, with the AutoDL fields that say it."""
    template = body["container_template"]
    rows: list[Row] = [
        ("name", body["name"], "name"),
        ("type", body["deployment_type"], "deployment_type"),
        ("replicas", str(body["replica_num"]), "replica_num"),
    ]
    if "parallelism_num" in body:
        rows.append(("parallelism", str(body["parallelism_num"]), "parallelism_num"))
    shown = image if image == template["image_uuid"] else f"{image} = {template['image_uuid']}"
    gpu = f"{template['gpu_num']} x {' | '.join(template['gpu_name_set']) or 'any'}"
    rows += [
        ("image", shown, "container_template.image_uuid"),
        *([("pull", template["image_pull"], "image_pull (Muster's own)")] if "image_pull" in template else ()),
        ("cmd", _one_line(template["cmd"]), "container_template.cmd"),
        ("gpu", gpu, "container_template.gpu_name_set, gpu_num"),
    ]
    for label, wire, unit in (
        ("cpu", "cpu_num", ""),
        ("memory", "memory_size", " GB"),
        ("cuda", "cuda_v", ""),
        ("price", "price", " (1/1000 yuan)"),
    ):
        lower, upper = template.get(f"{wire}_from"), template.get(f"{wire}_to")
        if lower or upper:
            rows.append((label, f"{lower or ''}..{upper or ''}{unit}", f"container_template.{wire}_from, {wire}_to"))
    if template.get("dc_list"):
        rows.append(("data_centers", ", ".join(template["dc_list"]), "container_template.dc_list"))
    if template.get("env_vars"):
        rows.append(("env", ", ".join(template["env_vars"]), "container_template.env_vars"))
    for key, label in (("service_6006_port_protocol", "ports.6006"), ("service_6008_port_protocol", "ports.6008")):
        if key in body:
            rows.append((label, body[key], key))
    if body.get("reuse_container"):
        rows.append(("reuse", body.get("reuse_container_scope", "all"), "reuse_container, reuse_container_scope"))
    if "service" in body:
        said = ", ".join(f"{key} {_brief(value)}" for key, value in body["service"].items())
        rows.append(("service", said, "service (Muster's own)"))
    return rows


def _brief(value: Any) -> str:
    if isinstance(value, Mapping):
        return "(" + ", ".join(f"{key} {each}" for key, each in value.items() if each is not None) + ")"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _one_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[0] if len(lines) == 1 else f"{lines[0]} … ({len(lines)} lines)"
