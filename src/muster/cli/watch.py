"""``watch``: publish an API's services into a registry, as a daemon on a host of your own."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from muster.cli.connection import Api, Home, TokenFile, resolve
from muster.cli.spec.values import duration
from muster.errors import InvalidSpec, SetupError

_EXPORT = "Export"
SHORTEST_SECONDS, LONGEST_SECONDS = 0.2, 3600.0


class Feed(StrEnum):
    """How an API is followed."""

    AUTO = "auto"
    STREAM = "stream"
    POLL = "poll"


def _interval(text: str) -> float:
    try:
        seconds = duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if not SHORTEST_SECONDS <= seconds <= LONGEST_SECONDS:
        raise typer.BadParameter("has to be between 200ms and 1h")
    return seconds


def _broker_url(text: str | None) -> str | None:
    if text is None:
        return None
    from muster.broker.address import read_address  # noqa: PLC0415 keeps --help fast

    try:
        return ",".join(read_address(each, "broker-url").url for each in text.split(","))
    except InvalidSpec as error:
        raise SetupError(f"--{error}") from error


def watch(
    *,
    api: Api = None,
    deployments: Annotated[
        list[str] | None,
        typer.Option("--deployment", "-d", help="Name or uuid of one to follow; again for more. Default: all."),
    ] = None,
    registry: Annotated[
        str | None,
        typer.Option(envvar="MUSTER_REGISTRY", show_envvar=True, help="Where to publish: file://, redis:// or etcd://"),
    ] = None,
    feed: Annotated[Feed, typer.Option(help="Follow Muster's stream, or poll; auto asks the API.")] = Feed.AUTO,
    interval: Annotated[float, typer.Option(parser=_interval, metavar="TIME", help="How often to poll.")] = "5s",  # type: ignore[assignment]  # parsed
    account: Annotated[
        str | None, typer.Option(help="First part of the services' names, if polled. Default: admin.")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="How many requests a container takes at once, if polled.")
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option("--ca", help="Authority of the API's certificate, also trusted for its containers'."),
    ] = None,
    broker_url: Annotated[
        str | None, typer.Option(help="Where clients find a `muster broker`: tls://HOST:7690[,…].")
    ] = None,
    template: Annotated[
        str | None, typer.Option(help="Also keep a proxy's configuration: nginx or haproxy.", rich_help_panel=_EXPORT)
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="The file to keep for the proxy.", rich_help_panel=_EXPORT)
    ] = None,
    command: Annotated[
        str | None,
        typer.Option("--exec", help="Run this when it changes, to reload the proxy.", rich_help_panel=_EXPORT),
    ] = None,
    token_file: TokenFile = None,
    home: Home = None,
) -> None:
    """Follow an API and keep a registry right, until Ctrl-C.

    Run as many as you like for one registry: one publishes, the others stand by and take over within a second.
    """
    from muster.processes.watch import FeedKind, Watched, run  # noqa: PLC0415 keeps --help fast

    if not all(map(str.strip, deployments or ())):
        raise SetupError("--deployment: names nothing; is a variable of the shell unset?")
    url, token = resolve(os.environ, api=api, token_file=token_file, home=home)
    if not registry:
        raise SetupError("no registry: use --registry, or set MUSTER_REGISTRY, like redis://HOST or file:///FOLDER")
    run(
        Watched(
            api=url,
            token=token,
            registry=registry,
            deployments=tuple(deployments or ()),
            feed=FeedKind(feed.value),
            interval_seconds=interval,
            account=account,
            concurrency=concurrency,
            ca_file=ca,
            broker_url=_broker_url(broker_url),
            template=template,
            output=output,
            command=command,
        )
    )
