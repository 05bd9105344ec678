"""The operations of etcd transactions that we use, as ``aetcd``'s generated messages; pure."""

from typing import Any

from aetcd import rpc


def get(key: bytes, end: bytes | None = None, *, keys_only: bool = False) -> Any:
    """Return the operation that reads ``key``, or all from ``key`` to ``end``."""
    return rpc.RequestOp(request_range=rpc.RangeRequest(key=key, range_end=end or b"", keys_only=keys_only))


def put(key: bytes, text: str) -> Any:
    """Return the operation that stores ``text``."""
    return rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=text.encode()))


def delete(key: bytes) -> Any:
    """Return the operation that removes ``key``."""
    return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key))


def unchanged(key: bytes, mod_revision: int) -> Any:
    """Return the comparison that holds if ``key`` was last written at ``mod_revision``; 0 says it is not there."""
    compare = rpc.Compare
    return compare(result=compare.EQUAL, target=compare.MOD, key=key, mod_revision=mod_revision)


def values(answer: Any) -> list[list[Any]]:
    """Return what each range operation of a transaction's answer found."""
    return [
        list(each.response_range.kvs) for each in answer.responses if each.WhichOneof("response") == "response_range"
    ]
