"""The API as one ASGI application, built from what it is given; nothing here is global.

Requests come in as AutoDL's clients send them, become wanted state in the store, and that is all: no engine is called
and nothing is decided here. Whoever builds the app owns everything passed in and closes it after the app is gone.
"""

import datetime
from collections.abc import Callable

from fastapi import FastAPI

from muster import __version__
from muster.api import envelope, openapi
from muster.api.addresses import Reach
from muster.api.context import ContainerAccess, Context, IngressLink
from muster.api.rate_limit import TokenBuckets
from muster.api.routes import (
    accounts,
    balances,
    blacklist,
    ca,
    containers,
    deployments,
    endpoints,
    events,
    exclusive_nfs,
    health,
    images,
    machines,
    metrics,
    pool,
    rollout,
    services,
    ssh,
)
from muster.api.routes import audit as audit_routes
from muster.api.routes import explain as explain_routes
from muster.api.routes import files as file_routes
from muster.api.routes import (
    ingress as ingress_routes,
)
from muster.api.routes.exec import extension as exec_extension
from muster.api.signal import CommitSignal
from muster.api.token_use import TokenUses
from muster.clock import Clock
from muster.feed import StoreFeed
from muster.files import FileStorage
from muster.model.ids import ContainerId, random_hex
from muster.registry.port import Registry
from muster.scheduler.explain import Explanation
from muster.store.keyring import Keyring
from muster.store.port import Store
from muster.vault import Vault

CHINA = datetime.timezone(datetime.timedelta(hours=8))
"""The zone of every time in AutoDL's answers."""
NO_INGRESS = Reach()
BURST = 2
"""How many seconds' worth of requests a token may make at once: a page of a console asks a few dozen things."""


def create_app(
    *,
    store: Store,
    clock: Clock,
    registry: Registry,
    access: ContainerAccess,
    explain: Callable[[ContainerId], Explanation | None],
    isolates_tenants: bool,
    is_ready: Callable[[], bool],
    reach: Reach = NO_INGRESS,
    ingress: IngressLink | None = None,
    host_key: Callable[[], str] | None = None,
    files: FileStorage | None = None,
    vault: Vault | None = None,
    uses: TokenUses | None = None,
    requests_per_second: float = 0.0,
    zone: datetime.tzinfo = CHINA,
    random_hex: Callable[[int], str] = random_hex,
    ca_pem: Callable[[], str | None] = lambda: None,
    feed: StoreFeed | None = None,
    installation: str = "muster",
) -> FastAPI:
    """Build the API.

    ``access`` may be the engine. ``explain`` says why a container has no machine, as far as anybody looked.
    ``reach`` says how containers are reached; ``ingress`` is whom the ingress asks for its routes.
    ``host_key`` tells the SSH gateway's public key, if there is a gateway.
    Without ``isolates_tenants`` only admins may deploy. ``is_ready`` answers for ``/readyz``. ``files`` is the
    storage that containers see, if they see one. Without ``vault`` no registry credentials are kept. Whoever runs
    ``uses`` has it written when tokens were last used. ``requests_per_second`` is how often a token may ask, with
    twice as many at once; 0: as often as it likes. Naive times in requests are of ``zone``, and so are all times in
    answers. ``random_hex`` draws the uuids of deployments. ``ca_pem`` tells the authority to trust at containers'
    addresses, if there is one of that kind. ``feed`` tells watchers elsewhere who is ready, and ``installation`` whose
    services these are.
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
        reach=reach,
        ingress=ingress,
        zone=zone,
        registry=registry,
        access=access,
        explain=explain,
        is_ready=is_ready,
        isolates_tenants=isolates_tenants,
        commits=commits,
        files=files,
        keyring=Keyring(vault),
        uses=uses or TokenUses(store, clock),
        limit=TokenBuckets(requests_per_second, burst=BURST * requests_per_second) if requests_per_second else None,
        random_hex=random_hex,
        host_key=host_key,
        ca_pem=ca_pem,
        feed=feed or StoreFeed(store, clock, reach.front, ca_pem=ca_pem),
        installation=installation,
    )
    envelope.install(app)
    for noun in (
        deployments,
        containers,
        events,
        images,
        machines,
        blacklist,
        balances,
        exclusive_nfs,
        rollout,
        health,
        metrics,
    ):
        app.include_router(noun.router)
    for noun in (
        deployments,
        containers,
        events,
        images,
        machines,
        endpoints,
        services,
        ca,
        accounts,
        audit_routes,
        file_routes,
        pool,
        blacklist,
        rollout,
        explain_routes,
        ingress_routes,
        ssh,
    ):
        app.include_router(noun.extension)
    app.include_router(exec_extension)
    openapi.install(app)
    return app
