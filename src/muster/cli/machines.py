"""``machines``, ``stock`` and ``images``: what there is to deploy on, and from."""

from typing import TYPE_CHECKING, Annotated

import typer

from muster.cli.connection import connected
from muster.cli.view import Column, Format, Output, cuda, gigabytes, show, yuan

if TYPE_CHECKING:
    from muster.client import Client, Image, Machine, Stock

MACHINES: "tuple[Column[Machine], ...]" = (
    Column("MACHINE", lambda row: row.id),
    Column("DATA CENTER", lambda row: row.data_center),
    Column("GPU", lambda row: row.gpu_name),
    Column("IDLE", lambda row: row.idle_gpu_num, is_number=True),
    Column("TOTAL", lambda row: row.gpu_num, is_number=True),
    Column("CPU", lambda row: row.cpu_num, is_number=True),
    Column("MEMORY GB", lambda row: gigabytes(row.memory_bytes), is_number=True),
    Column("CUDA", lambda row: cuda(row.cuda), is_number=True),
    Column("YUAN/GPU/H", lambda row: yuan(row.price_milliyuan), is_number=True),
)

STOCK: "tuple[Column[Stock], ...]" = (
    Column("GPU", lambda row: row.gpu_name),
    Column("IDLE", lambda row: row.idle_gpu_num, is_number=True),
    Column("TOTAL", lambda row: row.total_gpu_num, is_number=True),
)

IMAGES: "tuple[Column[Image], ...]" = (
    Column("NAME", lambda row: row.name),
    Column("UUID", lambda row: row.uuid),
)


@connected
def machines(client: "Client", output: Output = Format.TABLE) -> None:
    """List the machines on offer, and their idle GPUs."""
    show(client.machines(), MACHINES, output, empty="no machines are offered")


@connected
def stock(
    client: "Client",
    data_centers: Annotated[
        list[str] | None, typer.Option("--data-center", "-d", help="Only of this data center (repeatable).")
    ] = None,
    gpus: Annotated[list[str] | None, typer.Option("--gpu", "-g", help="Only of this model (repeatable).")] = None,
    output: Output = Format.TABLE,
) -> None:
    """List idle GPUs by model."""
    rows = client.stock(data_centers=data_centers or (), gpu_names=gpus or ())
    show(rows, STOCK, output, empty="no such GPUs")


@connected
def images(client: "Client", output: Output = Format.TABLE) -> None:
    """List the images that a deployment may name."""
    show([*client.private_images(), *client.base_images()], IMAGES, output, empty="no images")
