"""The schema: what ``migrations`` must produce, column by column.

One table per noun, ``account_id`` in each of them (null where the platform owns the row). Values that are only ever
read whole are JSON (``spec``, ``addresses``, ``gpu_indices``); everything that a query filters or sorts by is a
column. ``number`` is the order of creation, and the integer ``id`` of the API.

Two columns are derived by ``rows.py`` whenever a container is written: ``gpu_num``, and ``finished_at``, which is null
while a container's life lasts. The second makes *unfinished* something that an index can find among millions of rows.

``events.container_id`` is no foreign key on purpose: the log is pruned by itself, not with the rows it speaks of.
``event_horizon`` is one row that remembers how far the log was pruned; a gap in the ids would prove nothing, because
a sequence leaves gaps too. ``event_counts`` is kept beside the log because a list tells how long it is, and counting a
million rows takes 50 ms. Schema changes are made here and in a new migration; a test compares the two.
"""

import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class UtcTime(sa.TypeDecorator[datetime.datetime]):
    """A moment: kept in UTC with microseconds, read back aware, also where the database knows no zones."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime.datetime | None, dialect: Dialect) -> datetime.datetime | None:
        """Refuse a naive time: its zone could only be guessed."""
        del dialect
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone")
        return value.astimezone(datetime.UTC)

    def process_result_value(self, value: datetime.datetime | None, dialect: Dialect) -> datetime.datetime | None:
        """Give a stored time its zone."""
        del dialect
        if value is None or value.tzinfo is not None:
            return value
        return value.replace(tzinfo=datetime.UTC)


# SQLite numbers rows by themselves only where the type is exactly INTEGER, which has 64 bits there
_EventId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _number() -> sa.Column[int]:
    return sa.Column("number", sa.Integer, primary_key=True, autoincrement=True)


def _owner(**options: Any) -> sa.Column[Any]:
    return sa.Column("account_id", sa.Integer, sa.ForeignKey("accounts.id"), **options)


accounts = sa.Table(
    "accounts",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("name", sa.String, nullable=False, unique=True),
    sa.Column("role", sa.String, nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    # Quota: null where there is none
    sa.Column("quota_gpu_num", sa.Integer),
    sa.Column("quota_container_num", sa.Integer),
)

tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("hash", sa.String, primary_key=True),
    _owner(nullable=False),
    sa.Column("prefix", sa.String, nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("name", sa.String, nullable=False, server_default=""),
    sa.Column("last_used_at", UtcTime),
    sa.Column("expires_at", UtcTime),
    sa.Index(None, "account_id", "created_at"),
)

deployments = sa.Table(
    "deployments",
    metadata,
    _number(),
    sa.Column("id", sa.String, nullable=False, unique=True),
    _owner(nullable=False),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("spec", sa.JSON, nullable=False),
    sa.Column("status", sa.String, nullable=False),
    sa.Column("version", sa.String, nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("updated_at", UtcTime, nullable=False),
    sa.Column("edited_at", UtcTime, nullable=False),
    sa.Column("stopped_at", UtcTime),
    sa.Column("deleted_at", UtcTime),
    sa.Column("revision", sa.Integer, nullable=False),
    # the rollout of the present version
    sa.Column("stable_version", sa.String),
    sa.Column("is_paused", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("failure", sa.String, nullable=False, server_default=""),
    # what is no longer among the containers, but still counts
    sa.Column("pruned_finished", sa.Integer, nullable=False, server_default="0"),
    sa.Column("pruned_completed", sa.Integer, nullable=False, server_default="0"),
    sa.Column("pruned_starts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("pruned_reuses", sa.Integer, nullable=False, server_default="0"),
    sa.Column("pruned_seconds_saved", sa.Float, nullable=False, server_default="0"),
    sa.Index(None, "account_id", "number"),
    sa.Index(None, "account_id", "name", "number"),
    sa.Index(None, "status", "number"),
)

deployment_versions = sa.Table(
    "deployment_versions",
    metadata,
    sa.Column("deployment_id", sa.String, sa.ForeignKey("deployments.id"), primary_key=True),
    sa.Column("name", sa.String, primary_key=True),
    _owner(nullable=False),
    # counts from 1 in each deployment
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("spec", sa.JSON, nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("replaces_all", sa.Boolean, nullable=False, server_default=sa.false()),
    # when it first proved itself
    sa.Column("good_at", UtcTime),
    sa.Index(None, "deployment_id", "number"),
)

containers = sa.Table(
    "containers",
    metadata,
    _number(),
    sa.Column("id", sa.String, nullable=False, unique=True),
    _owner(nullable=False),
    sa.Column("deployment_id", sa.String, sa.ForeignKey("deployments.id"), nullable=False),
    sa.Column("version", sa.String, nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("updated_at", UtcTime, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    # StopRequest: all null until somebody asks for a stop
    sa.Column("stop_reason", sa.String),
    sa.Column("stop_requested_at", UtcTime),
    sa.Column("stop_no_cache", sa.Boolean),
    sa.Column("stop_cmd_before_shutdown", sa.String),
    # Placement: all null until there is one
    sa.Column("machine_id", sa.String),
    sa.Column("data_center", sa.String),
    sa.Column("gpu_name", sa.String),
    sa.Column("gpu_indices", sa.JSON(none_as_null=True)),
    sa.Column("gpu_num", sa.Integer),
    sa.Column("cpu_num", sa.Integer),
    sa.Column("memory_bytes", sa.BigInteger),
    sa.Column("price_milliyuan", sa.Integer),
    sa.Column("uuid", sa.String, unique=True),
    sa.Column("image_uuid", sa.String),
    sa.Column("image_reference", sa.String, nullable=False, server_default=""),
    sa.Column("image_digest", sa.String, nullable=False, server_default=""),
    sa.Column("reused_from", sa.String),
    sa.Column("placed_at", UtcTime),
    # what was seen
    sa.Column("status", sa.String),
    sa.Column("addresses", sa.JSON, nullable=False),
    sa.Column("is_ready", sa.Boolean, nullable=False),
    sa.Column("reason", sa.String),
    sa.Column("message", sa.String, nullable=False),
    sa.Column("exit_code", sa.Integer),
    sa.Column("started_at", UtcTime),
    sa.Column("stopped_at", UtcTime),
    sa.Column("released_at", UtcTime),
    sa.Column("finished_at", UtcTime),
    # what becomes of its remains
    sa.Column("is_pooled", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("discard_at", UtcTime),
    sa.Column("ready_at", UtcTime),
    # how it is reached through the ingress
    sa.Column("listen_ports", sa.JSON, nullable=False, server_default="{}"),
    sa.Column("ssh_port", sa.Integer),
    sa.Column("host_address", sa.String, nullable=False, server_default=""),
    sa.Column("password", sa.String, nullable=False, server_default=""),
    sa.Column("password_hash", sa.String, nullable=False, server_default=""),
    sa.Column("drain", sa.String, nullable=False, server_default="none"),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Index(None, "is_pooled", "account_id", "number"),
    sa.Index(None, "reused_from"),
    sa.Index(None, "account_id", "number"),
    sa.Index(None, "account_id", "deployment_id", "number"),
    sa.Index(None, "deployment_id", "status"),
    sa.Index(None, "deployment_id", "finished_at", "number"),
    sa.Index(None, "finished_at", "number"),
    sa.Index(None, "released_at", "number"),
)

# pruned starts without reuse: what the seconds that reuse saves are held against
fresh_starts = sa.Table(
    "fresh_starts",
    metadata,
    sa.Column("account_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("image_uuid", sa.String, primary_key=True),
    sa.Column("image_reference", sa.String, primary_key=True),
    sa.Column("starts", sa.Integer, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
)

# every port of the ingress that was ever given to a container; freed_at is since when nobody has it
listen_ports = sa.Table(
    "listen_ports",
    metadata,
    sa.Column("port", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("container_id", sa.String),
    sa.Column("freed_at", UtcTime),
    sa.Index(None, "container_id"),
    sa.Index(None, "freed_at"),
)

ssh_keys = sa.Table(
    "ssh_keys",
    metadata,
    sa.Column("account_id", sa.Integer, sa.ForeignKey("accounts.id"), primary_key=True, autoincrement=False),
    sa.Column("fingerprint", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("key", sa.String, nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
)

gpu_claims = sa.Table(
    "gpu_claims",
    metadata,
    sa.Column("machine_id", sa.String, primary_key=True),
    sa.Column("gpu_index", sa.Integer, primary_key=True, autoincrement=False),
    _owner(nullable=False),
    sa.Column("container_id", sa.String, sa.ForeignKey("containers.id"), nullable=False),
    sa.Index(None, "container_id"),
)

machines = sa.Table(
    "machines",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    _owner(),
    sa.Column("data_center", sa.String, nullable=False),
    sa.Column("gpu_name", sa.String, nullable=False),
    sa.Column("gpu_num", sa.Integer, nullable=False),
    sa.Column("cpu_num", sa.Integer, nullable=False),
    sa.Column("memory_bytes", sa.BigInteger, nullable=False),
    sa.Column("cuda", sa.Integer, nullable=False),
    sa.Column("price_milliyuan", sa.Integer, nullable=False),
    sa.Column("disk_bytes", sa.BigInteger, nullable=False),
    sa.Column("address", sa.String, nullable=False),
    sa.Column("chip_corp", sa.String, nullable=False),
    sa.Column("cpu_arch", sa.String, nullable=False),
    sa.Column("is_retired", sa.Boolean, nullable=False),
    sa.Column("devices", sa.JSON, nullable=False, server_default="[]"),
    # why its engine cannot be used, empty while it can
    sa.Column("problem", sa.String, nullable=False, server_default=""),
    sa.Column("unreachable_since", UtcTime),
    sa.Column("lost_at", UtcTime),
    sa.Column("is_cordoned", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("drain", sa.String, nullable=False, server_default="none"),
    sa.Index(None, "drain"),
    sa.Index(None, "lost_at"),
)

blacklist = sa.Table(
    "blacklist",
    metadata,
    _owner(primary_key=True, autoincrement=False),
    sa.Column("machine_id", sa.String, primary_key=True),
    sa.Column("data_center", sa.String, nullable=False),
    sa.Column("comment", sa.String, nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("updated_at", UtcTime, nullable=False),
    sa.Column("expires_at", UtcTime, nullable=False),
)

images = sa.Table(
    "images",
    metadata,
    _number(),
    sa.Column("uuid", sa.String, nullable=False, unique=True),
    _owner(),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("reference", sa.String, nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("updated_at", UtcTime, nullable=False),
    sa.Column("digest", sa.String, nullable=False, server_default=""),
    sa.Column("status", sa.String, nullable=False, server_default="finished"),
    sa.Column("message", sa.String, nullable=False, server_default=""),
    sa.Column("source_container", sa.String),
    sa.Index(None, "account_id", "number"),
)

held_images = sa.Table(
    "held_images",
    metadata,
    sa.Column("machine_id", sa.String, primary_key=True),
    sa.Column("reference", sa.String, primary_key=True),
    _owner(),
    sa.Column("digest", sa.String, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Index(None, "reference"),
)

prewarms = sa.Table(
    "prewarms",
    metadata,
    sa.Column("image_uuid", sa.String, primary_key=True),
    sa.Column("machine_id", sa.String, primary_key=True),
    _owner(nullable=False),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("message", sa.String, nullable=False),
    sa.Column("updated_at", UtcTime, nullable=False),
    sa.Index(None, "state"),
)

registry_credentials = sa.Table(
    "registry_credentials",
    metadata,
    _owner(primary_key=True, autoincrement=False),
    sa.Column("registry", sa.String, primary_key=True),
    # encrypted with a key that is not in the database
    sa.Column("sealed", sa.String, nullable=False),
    sa.Column("updated_at", UtcTime, nullable=False),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("id", _EventId, primary_key=True, autoincrement=True),
    sa.Column("account_id", sa.Integer, nullable=False),
    sa.Column("deployment_id", sa.String, nullable=False),
    sa.Column("container_id", sa.String, nullable=False),
    sa.Column("container_uuid", sa.String, nullable=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("status", sa.String, nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("reason", sa.String),
    sa.Column("message", sa.String, nullable=False),
    sa.Column("exit_code", sa.Integer),
    # each list that a client may ask for is one range of one index: tail, account, deployment, container
    sa.Index(None, "account_id", "id"),
    sa.Index(None, "account_id", "kind", "id"),
    sa.Index(None, "account_id", "deployment_id", "kind", "id"),
    sa.Index(None, "account_id", "container_uuid", "kind", "id"),
    sqlite_autoincrement=True,  # an id is never given twice, also after the newest event was pruned
)

event_counts = sa.Table(
    "event_counts",
    metadata,
    sa.Column("account_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("deployment_id", sa.String, primary_key=True),
    sa.Column("kind", sa.String, primary_key=True),
    sa.Column("total", sa.Integer, nullable=False),
)

event_horizon = sa.Table(
    "event_horizon",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("pruned_through", _EventId, nullable=False),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", _EventId, primary_key=True, autoincrement=True),
    sa.Column("account_id", sa.Integer, nullable=False),
    sa.Column("actor", sa.String, nullable=False),
    sa.Column("token_id", sa.String, nullable=False),
    sa.Column("action", sa.String, nullable=False),
    sa.Column("target", sa.String, nullable=False),
    sa.Column("detail", sa.String, nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Index(None, "account_id", "id"),
    sa.Index(None, "target", "id"),
    sqlite_autoincrement=True,
)
