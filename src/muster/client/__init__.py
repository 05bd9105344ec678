"""A typed, synchronous client of the Muster API: what the CLI is built on, and scripts may be.

It owns the wire shapes seen from outside: methods take and return small frozen values, so that a caller never
handles an envelope, a page or a time as text. Memory is in bytes and prices in 1/1000 yuan per GPU-hour, whatever the
wire says. It needs httpx and the model, never the server.

Two families of paths are called. Those of AutoDL answer HTTP 200 with an envelope whose ``code`` tells success;
Muster's own under ``/api/v1/muster`` use status codes. Both become the same exceptions here: ``Unauthenticated``,
``NotFound``, ``CursorExpired``, ``ApiError`` for every other refusal, and ``ApiUnavailable`` with a one-line hint when
nobody answers.

Refused: an async twin (the CLI needs none, and two copies drift apart), retries (a caller knows what is safe to
repeat), and classes for requests: a deployment is created from the JSON object that AutoDL documents.
"""

from muster.client.client import DEFAULT_URL, Client
from muster.client.values import (
    Account,
    Container,
    Deployment,
    DeploymentDetail,
    Event,
    Image,
    Machine,
    Stock,
    Unplaced,
)

__all__ = [
    "DEFAULT_URL",
    "Account",
    "Client",
    "Container",
    "Deployment",
    "DeploymentDetail",
    "Event",
    "Image",
    "Machine",
    "Stock",
    "Unplaced",
]
