"""Images: AutoDL's two lists, and our catalogue with what machines hold of it and what registries ask."""

from fastapi import APIRouter, Response

from muster.api import catalogue, convert, schemas, wanted
from muster.api import image_schemas as bodies
from muster.api.audit import note
from muster.api.auth import Caller, Deployer
from muster.api.body import ObjectBodyRoute
from muster.api.context import Context, Ctx
from muster.api.envelope import Envelope
from muster.errors import Conflict, NotFound
from muster.model.account import Account
from muster.model.ids import ImageUuid
from muster.model.image import Credential, Image, Prewarm
from muster.model.reference import registry_named
from muster.store.port import Transaction, Window

router = APIRouter(tags=["AutoDL"], route_class=ObjectBodyRoute)
extension = APIRouter(prefix="/api/v1/muster", tags=["Muster"], route_class=ObjectBodyRoute)

_ALL = Window(0, 100_000)


@router.post("/api/v1/dev/image/private/list")
async def list_private_images(
    body: schemas.PageRequest, caller: Caller, context: Ctx
) -> Envelope[schemas.PageOf[schemas.ImageRow]]:
    """List the account's images, newest first."""
    found = await context.store.read(lambda tx: tx.images.find(caller.id, convert.window(body)))
    rows = [convert.image_row(each, context.zone) for each in found.items]
    return Envelope(data=convert.page_of(found, rows, body))


@router.post("/api/v2/image/list")
async def list_base_images(
    body: schemas.PageRequest, _: Caller, context: Ctx
) -> Envelope[schemas.PageOf[schemas.BaseImageRow]]:
    """List the images of the platform, newest first."""
    found = await context.store.read(lambda tx: tx.images.find(None, convert.window(body)))
    return Envelope(data=convert.page_of(found, [convert.base_image_row(each) for each in found.items], body))


@extension.get("/images")
async def list_images(caller: Caller, context: Ctx) -> bodies.Catalogue:
    """List what a deployment may name: the account's images and the platform's, with the machines that hold them."""

    def work(tx: Transaction) -> bodies.Catalogue:
        images = [*tx.images.find(caller.id, _ALL).items, *tx.images.find(None, _ALL).items]
        return bodies.Catalogue(images=[_row(tx, each, context) for each in images])

    return await context.store.read(work)


@extension.post("/images", responses={201: {"model": bodies.BoundImage, "description": "A new name"}})
async def bind_image(body: bodies.BindImage, caller: Deployer, context: Ctx, response: Response) -> bodies.BoundImage:
    """Let a name stand for a reference: 201 for a new name, 200 for one that is bound anew. Nothing is fetched yet."""
    _refuse_without_images(context)
    digits = 12 if body.base else 10
    new_uuid = ImageUuid(f"{'base-' if body.base else ''}image-{context.random_hex(digits)}")
    now = context.clock.now()

    def work(tx: Transaction) -> bodies.BoundImage:
        bound = catalogue.bind(tx, caller, body.name, body.reference, new_uuid=new_uuid, is_base=body.base, now=now)
        whose = "base image" if body.base else "image"
        note(tx, caller, "image.bind", bound.image.uuid, f"{whose} {body.name}: {bound.image.reference}", now)
        return bodies.BoundImage(
            image=_row(tx, bound.image, context),
            rebound=bound.before is not None,
            old_reference="" if bound.before is None else bound.before.reference,
            old_digest="" if bound.before is None else bound.before.digest,
            outdated_on=sorted(bound.outdated_on),
        )

    bound = await wanted.write(context.store, work)
    response.status_code = 200 if bound.rebound else 201
    return bound


@extension.post("/images/save", status_code=202)
async def save_image(body: bodies.SaveImage, caller: Deployer, context: Ctx) -> bodies.CatalogueRow:
    """Want an image of a container's files; it is ``saving`` until it is ``finished`` or ``failed``."""
    _refuse_without_images(context)
    new_uuid, now = ImageUuid(f"image-{context.random_hex(10)}"), context.clock.now()

    def work(tx: Transaction) -> bodies.CatalogueRow:
        container = wanted.own_container(tx, caller, body.container_uuid)
        image = catalogue.save(tx, caller, container, body.name, new_uuid=new_uuid, now=now)
        note(tx, caller, "image.save", image.uuid, f"{body.name}, of container {body.container_uuid}", now)
        return _row(tx, image, context)

    return await wanted.write(context.store, work)


@extension.delete("/images/{uuid}")
async def remove_image(uuid: str, caller: Caller, context: Ctx) -> bodies.CatalogueRow:
    """Take an image off the catalogue and return what it was; 409 while a running deployment names it."""

    def work(tx: Transaction) -> bodies.CatalogueRow:
        removed = catalogue.remove(tx, caller, ImageUuid(uuid))
        note(tx, caller, "image.remove", uuid, f"{removed.name}: {removed.reference}", context.clock.now())
        return _row(tx, removed, context)

    return await wanted.write(context.store, work)


@extension.post("/images/{uuid}/prewarm", status_code=202)
async def want_prewarm(uuid: str, body: bodies.WantPrewarm, caller: Deployer, context: Ctx) -> bodies.PrewarmList:
    """Want machines to hold an image before anybody waits for it; returns at once."""
    _refuse_without_images(context)

    def work(tx: Transaction) -> list[Prewarm]:
        now = context.clock.now()
        wishes = catalogue.want_prewarm(
            tx,
            caller,
            ImageUuid(uuid),
            machine_ids=body.machine_ids,
            data_centers=body.data_centers,
            now=now,
        )
        note(tx, caller, "image.prewarm", uuid, f"on {len(wishes)} machines", now)
        return list(wishes)

    return _prewarm_list(await wanted.write(context.store, work), context)


@extension.get("/images/{uuid}/prewarm")
async def list_prewarms(uuid: str, caller: Caller, context: Ctx) -> bodies.PrewarmList:
    """Tell how far each machine is that is to hold an image."""

    def work(tx: Transaction) -> list[Prewarm]:
        if tx.images.get(caller.id, ImageUuid(uuid)) is None:
            raise NotFound("image", uuid)
        return list(tx.prewarms.of(ImageUuid(uuid)))

    return _prewarm_list(await context.store.read(work), context)


@extension.get("/registries")
async def list_registries(caller: Caller, context: Ctx) -> bodies.RegistryList:
    """List the registries that the account has credentials for; those themselves are never told."""
    return await context.store.read(lambda tx: _registry_list(tx, caller))


@extension.put("/registries/{host}")
async def put_registry(host: str, body: bodies.RegistryLogin, caller: Caller, context: Ctx) -> bodies.RegistryList:
    """Keep what a registry asks of the account, new or changed."""
    registry, now = registry_named(host), context.clock.now()
    credential = Credential(body.username, body.password.get_secret_value())

    def work(tx: Transaction) -> bodies.RegistryList:
        context.keyring.put(tx, caller.id, registry, credential, now)
        note(tx, caller, "registry.login", registry, "", now)
        return _registry_list(tx, caller)

    return await wanted.write(context.store, work)


@extension.delete("/registries/{host}")
async def remove_registry(host: str, caller: Caller, context: Ctx) -> bodies.RegistryList:
    """Forget what a registry asks of the account."""

    def work(tx: Transaction) -> bodies.RegistryList:
        if not tx.credentials.remove(caller.id, registry_named(host)):
            raise NotFound("registry", host)
        note(tx, caller, "registry.logout", host, "", context.clock.now())
        return _registry_list(tx, caller)

    return await wanted.write(context.store, work)


def _refuse_without_images(context: Context) -> None:
    if not context.access.capabilities.has_images:
        raise Conflict("the local engine has one image: the host")


def _row(tx: Transaction, image: Image, context: Context) -> bodies.CatalogueRow:
    return bodies.CatalogueRow(
        image_uuid=image.uuid,
        name=image.name,
        is_base=image.account_id is None,
        reference=image.reference,
        digest=image.digest,
        status=image.status.value,
        message=image.message,
        source_container_uuid=image.source_container,
        held_on=sorted(tx.held_images.holders(image.reference)),
        created_at=convert.wire_time(image.created_at, context.zone),
        updated_at=convert.wire_time(image.updated_at, context.zone),
    )


def _prewarm_list(found: list[Prewarm], context: Context) -> bodies.PrewarmList:
    return bodies.PrewarmList(
        prewarms=[
            bodies.PrewarmRow(
                machine_id=each.machine_id,
                state=each.state.value,
                message=each.message,
                updated_at=convert.wire_time(each.updated_at, context.zone),
            )
            for each in found
        ]
    )


def _registry_list(tx: Transaction, caller: Account) -> bodies.RegistryList:
    return bodies.RegistryList(registries=list(tx.credentials.registries(caller.id)))
