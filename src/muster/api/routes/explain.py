"""Why containers wait for a machine, and where those of a deployment that is none yet would go."""

import asyncio

from fastapi import APIRouter

from muster.api import convert, explaining, schemas, wanted
from muster.api.auth import Caller, Deployer
from muster.api.body import ObjectBodyRoute
from muster.api.command import command_warnings, examined_spec
from muster.api.context import Ctx
from muster.api.explain_schemas import ExplainedDeployment, WouldBe
from muster.model.deployment import Deployment
from muster.planner.plan import Report
from muster.store.port import Transaction

extension = APIRouter(prefix="/api/v1/muster", tags=["Muster"], route_class=ObjectBodyRoute)


@extension.get("/deployments/{uuid}/explain")
async def explain_deployment(uuid: str, caller: Caller, context: Ctx) -> ExplainedDeployment:
    """Say why containers of a deployment have no machine, and what would make them fit."""
    now, has_images = context.clock.now(), context.access.capabilities.has_images

    def load(tx: Transaction) -> tuple[Deployment, explaining.Question, Report]:
        deployment = wanted.own_deployment(tx, caller, uuid)
        question, report = explaining.about_deployment(tx, deployment, now, has_images=has_images)
        return deployment, question, report

    deployment, question, report = await context.store.read(load)
    answer = await asyncio.to_thread(explaining.answer, question, context.explain)
    return explaining.explained(deployment, report, answer, context.zone)


@extension.post("/explain")
async def explain_new(body: schemas.CreateDeployment, caller: Deployer, context: Ctx) -> WouldBe:
    """Say where the containers of a deployment would go if it were created now, or why they would wait."""
    spec, warnings = await examined_spec(convert.spec_from(body))
    now, has_images = context.clock.now(), context.access.capabilities.has_images

    def load(tx: Transaction) -> explaining.Question:
        wanted.check(tx, caller, spec)
        return explaining.about_new(tx, caller, spec, now, has_images=has_images)

    question = await context.store.read(load)
    answer = await asyncio.to_thread(explaining.answer, question)
    return WouldBe(
        text=explaining.would_be_text(len(question.about), answer),
        container_num=len(question.about),
        placed=explaining.would_go(answer.placed),
        unfit=list(answer.unfit),
        spec=convert.spec_to_wire(spec),
        warnings=command_warnings(warnings),
    )
