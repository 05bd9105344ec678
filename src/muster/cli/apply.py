"""``apply -f FILE``: make what runs be what a file says, after showing what that means.

A name that no running deployment has is created. One that has it is compared with the file, field by field, both
sides spelled out by the server: equal is nothing to do, another number of replicas is a scale, anything else is
refused naming the field, because it would have to replace running containers and Muster cannot do that gently yet.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from muster.cli.connection import connected
from muster.cli.difference import Difference, differences
from muster.cli.estimate import Estimate, estimate
from muster.cli.prompt import Yes, agreed
from muster.cli.view import Column, Format, Output, note, print_table, report, say, yuan
from muster.errors import ApiError, InvalidSpec, SetupError

if TYPE_CHECKING:
    from muster.cli.spec.deployment import Reading
    from muster.cli.spec.document import Value
    from muster.client import Client, Deployment

REPLICAS = "replica_num"
WRONG_PARAMETER = "RequestParameterIsWrong"
"""The code of the API for a field that cannot be; its message begins with the field."""

Row = tuple[str, str, str]
COLUMNS: tuple[Column[Row], ...] = (
    Column("FIELD", lambda row: row[0]),
    Column("VALUE", lambda row: row[1]),
    Column("AUTODL FIELD", lambda row: row[2]),
)


@connected
def apply(
    client: "Client",
    file: Annotated[Path, typer.Option("--file", "-f", help="Deployment file, YAML or JSON; - is standard input.")],
    yes: Yes = False,
    output: Output = Format.TABLE,
) -> None:
    """Create a deployment from a file, or scale it."""
    reading = _read(file)
    template = dict(reading.body["container_template"])
    template["image_uuid"] = _image_uuid(client, template["image_uuid"])
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
    others = [each for each in changed if each.field != REPLICAS]
    if others:
        note(f"error: {deployment.name} {deployment.uuid} runs with another specification:")
        for each in others:
            note(f"error: {_refusal(each, *source)}")
        note("error: only the number of replicas can change; use another name, or: muster delete " + deployment.uuid)
        sys.exit(1)
    replicas = int(wanted[REPLICAS])
    step = f"{deployment.replica_num} -> {replicas} replicas"
    if not agreed(f"Scale {deployment.name} {deployment.uuid}, {step}?", yes=yes):
        sys.exit(1)
    client.scale_deployment(deployment.uuid, replicas)
    report("scale", deployment.name, deployment.uuid, step, output)


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
    """Return the body as the server understands it; what it refuses is told with the line that says it."""
    try:
        return client.check_deployment(body)
    except ApiError as error:
        field, colon, reason = error.msg.partition(": ")
        place = _place(field, reading)
        if error.code != WRONG_PARAMETER or not colon or place is None:
            raise
        raise InvalidSpec(f"{file}:{place.line}: {place.path}", reason) from error


def _image_uuid(client: "Client", image: str) -> str:
    """Return the uuid of an image that is named by name or uuid."""
    if image.startswith(("image-", "base-image-")):
        return image
    found = [each.uuid for each in (*client.private_images(), *client.base_images()) if each.name == image]
    if not found:
        raise InvalidSpec("image", f"none is called {image!r} (see: muster images)")
    if len(set(found)) > 1:
        raise InvalidSpec("image", f"{image!r} may be {', '.join(found)}; give the uuid")
    return found[0]


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
