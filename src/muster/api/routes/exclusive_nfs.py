"""AutoDL's switch between the ordinary storage and a dedicated network disk. There is only the first kind here."""

from fastapi import APIRouter

from muster.api.auth import Caller
from muster.api.body import ObjectBodyRoute
from muster.api.context import Ctx
from muster.api.envelope import Envelope
from muster.api.schemas import MountExclusiveNfs
from muster.errors import Conflict, InvalidSpec

router = APIRouter(prefix="/api/v1/dev/exclusive_nfs", tags=["AutoDL"], route_class=ObjectBodyRoute)


@router.post("/mount")
async def mount_exclusive_nfs(body: MountExclusiveNfs, _: Caller, context: Ctx) -> Envelope[None]:
    """Refuse the dedicated disk (1), which nobody has; the ordinary storage (-1) is what is mounted anyway."""
    machines = await context.store.read(lambda tx: tx.machines.offered())
    known = sorted({machine.data_center for machine in machines})
    if body.data_center not in known:
        raise InvalidSpec("data_center", f"must be one of {', '.join(known)}; got {body.data_center!r}")
    if body.mountable == 0:
        raise InvalidSpec("mountable", "must be 1 (the dedicated disk) or -1 (the ordinary storage)")
    if body.mountable == 1:
        raise Conflict(f"数据中心 {body.data_center} 没有专属文件存储 (there is no dedicated network disk here)")
    return Envelope(data=None)
