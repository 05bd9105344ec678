"""The API as one ASGI application, built from what it is given; nothing here is global.

Requests come in as AutoDL's clients send them, become wanted state in the store, and that is all: no engine is called
and nothing is decided here. Whoever builds the app owns everything passed in and closes it after the app is gone.
"""

import datetime
from collections.abc import Callable

from fastapi import FastAPI

from muster import __version__
from muster.api import envelope, openapi
from muster.api.context import Context, LogSource
from muster.api.routes import accounts, containers, deployments, endpoints, events, health, images, machines
from muster.api.signal import CommitSignal
from muster.clock import Clock
from muster.model.ids import ContainerId, random_hex
from muster.registry.port import Registry
from muster.scheduler.explain import Explanation
from muster.store.port import Store

CHINA = datetime.timezone(datetime.timedelta(hours=8))
"""The zone of every time in AutoDL's answers."""


def create_app(
    *,
    store: Store,
    clock: Clock,
    registry: Registry,
    log_source: LogSource,
    explain: Callable[[ContainerId], Explanation | None],
    isolates_tenants: bool,
    is_ready: Callable[[], bool],
    zone: datetime.tzinfo = CHINA,
    random_hex: Callable[[int], str] = random_hex,
) -> FastAPI:
    """Build the API.

    ``log_source`` may be the engine. ``explain`` says why a container has no machine, as far as anybody looked.
    Without ``isolates_tenants`` only admins may deploy. ``is_ready`` answers for ``/readyz``. Naive times in requests
    are of ``zone``, and so are all times in answers. ``random_hex`` draws the uuids of deployments.
    """
    app = FastAPI(
        title="Muster",
        version=__version__,
        docs_url=None,  # the pages load scripts from elsewhere
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
    )
    commits = CommitSignal()
    store.on_commit(commits.on_commit)
    app.state.context = Context(
        store=store,
        clock=clock,
        zone=zone,
        registry=registry,
        log_source=log_source,
        explain=explain,
        is_ready=is_ready,
        isolates_tenants=isolates_tenants,
        commits=commits,
        random_hex=random_hex,
    )
    envelope.install(app)
    for noun in (deployments, containers, events, images, machines, health):
        app.include_router(noun.router)
    for noun in (deployments, containers, events, machines, endpoints, accounts):
        app.include_router(noun.extension)
    openapi.install(app)
    return app
