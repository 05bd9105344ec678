"""A typed, synchronous client of the Muster API: what the CLI is built on, and scripts may be.

It owns the wire shapes seen from outside: methods take and return small frozen values, so that a caller never
handles an envelope, a page or a time as text. Memory is in bytes and prices in 1/1000 yuan per GPU-hour, whatever the
wire says. It needs httpx and the model, never the server.

Two families of paths are called. Those of AutoDL answer HTTP 200 with an envelope whose ``code`` tells success;
Muster's own under ``/api/v1/muster`` use status codes. Both become the same exceptions here: ``Unauthenticated``,
``NotFound``, ``CursorExpired``, ``ApiError`` for every other refusal, and ``ApiUnavailable`` with a one-line hint when
nobody answers. What the server's rate limit refuses is sent again when it may, a few times: nothing was done of it.

Refused: an async twin (the CLI needs none, and two copies drift apart), other retries (a caller knows what is safe to
repeat), and classes for requests: a deployment is created from the JSON object that AutoDL documents.
"""

from muster.client.client import DEFAULT_URL, Client
from muster.client.explanations import Explained, Remedy, Unfit, WouldBe, WouldGo
from muster.client.values import (
    Account,
    AuditEntry,
    Blacklisted,
    BoundImage,
    CatalogueImage,
    CheckedDeployment,
    CommandWarning,
    Container,
    Deployment,
    DeploymentDetail,
    EditedDeployment,
    Event,
    FileEntry,
    Image,
    Machine,
    PooledContainer,
    Prewarm,
    ReuseStats,
    Rollout,
    SshKey,
    Stock,
    Suspect,
    Token,
    Unplaced,
    Version,
)

__all__ = [
    "DEFAULT_URL",
    "Account",
    "AuditEntry",
    "Blacklisted",
    "BoundImage",
    "CatalogueImage",
    "CheckedDeployment",
    "Client",
    "CommandWarning",
    "Container",
    "Deployment",
    "DeploymentDetail",
    "EditedDeployment",
    "Event",
    "Explained",
    "FileEntry",
    "Image",
    "Machine",
    "PooledContainer",
    "Prewarm",
    "Remedy",
    "ReuseStats",
    "Rollout",
    "SshKey",
    "Stock",
    "Suspect",
    "Token",
    "Unfit",
    "Unplaced",
    "Version",
    "WouldBe",
    "WouldGo",
]
