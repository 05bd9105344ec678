"""Every exception that Muster raises on purpose, as one tree.

::

    MusterError
    ├─ RequestError            the caller changes the request
    │  ├─ InvalidSpec            a field is missing, mistyped or impossible: correct it
    │  │  └─ InvalidAsk            what a request tells the balancer (features, demands, …) is no such thing
    │  ├─ NotFound               no such thing in this account
    │  ├─ Conflict               the thing exists, but not in a state that allows this
    │  ├─ Forbidden              the account's role does not allow this: ask an admin
    │  ├─ Unauthenticated        no token, or one that is unknown, revoked or expired
    │  └─ TooManyRequests        the token asks too often: wait ``retry_after_seconds``
    ├─ StoreError
    │  ├─ StaleWrite             somebody else wrote first: load again and decide again
    │  └─ StoreUnavailable       the database cannot be reached, or belongs to a newer version
    ├─ EngineError
    │  ├─ EngineUnavailable      transient: try again after ``retry_after_seconds``
    │  │  └─ MachineUnreachable    the host itself does not answer: if that lasts, it is lost
    │  └─ EngineRejected         permanent for this container: it fails with ``reason``
    ├─ StorageError            the file storage is not mounted, read-only, full or broken: the operator mends it
    ├─ FeedError                 the feed cannot be read: keep what it last said and try again
    │  ├─ NotAnApi               something else answers there, a page say: a person mends that, or it passes
    │  ├─ FeedRefused            its API refuses: a wrong token, no entitlement, another API; a person mends that
    │  └─ CursorExpired          the events after this cursor are gone: list again
    ├─ RegistryError
    │  ├─ RegistryUnavailable    keep the last set and try again
    │  └─ Fenced                 a newer publisher owns this key: stop publishing
    ├─ BalancerError
    │  ├─ NoEndpoints            the service is unknown, or its set is empty, until the deadline
    │  ├─ QueueFull              more requests wait than the queue holds: back off
    │  ├─ QueueTimeout           no replica was free before the deadline
    │  │  └─ CannotMeetDeadline    nor would one be: refused at once, so try again later or with more time
    │  ├─ NeverFits              it demands more of a budget than any replica has
    │  └─ QueueCancelled         an operator took it out of the queue: ask them before trying again
    ├─ BrokerError
    │  ├─ BrokerUnavailable      no broker that serves this can be asked: start it, or try again
    │  └─ BrokerRefused          it does not know the token or the service, or speaks another version
    ├─ ApiError                  our HTTP API refused a call; ``code``, ``msg`` and ``request_id`` tell why
    ├─ ApiUnavailable            our HTTP API does not answer: start the server, or try again
    └─ SetupError                a process cannot start; its one-line message says what to do

Foreign exceptions are converted once, at the adapter that called the foreign code, and chained with ``from``.
A message says what was attempted; the cause says why it failed.
"""


class MusterError(Exception):
    """The root: catch it to catch everything that Muster raises on purpose."""


class RequestError(MusterError):
    """The caller asked for something that cannot be; changing the request helps, trying again does not."""


class InvalidSpec(RequestError):
    """A field is missing, mistyped or impossible.

    ``field`` is the dotted path as the caller wrote it; ``reason`` says what would be right.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class InvalidAsk(InvalidSpec):
    """What a request tells the balancer about itself is missing its meaning: NaN, a list, a deadline that is no number.

    Raised before anything is sent; ``field`` names the option, as in ``features.pixels``.
    """


class NotFound(RequestError):
    """There is no such thing in the caller's account; another account's thing looks the same."""

    def __init__(self, kind: str, name: str, message: str = "") -> None:
        super().__init__(message or f"no {kind} {name!r}")
        self.kind = kind
        self.name = name


class Conflict(RequestError):
    """The thing exists, but its present state does not allow this."""


class Forbidden(RequestError):
    """The account is known, but its role does not allow this."""


class Unauthenticated(RequestError):
    """No token was given, or one that is unknown, revoked or expired."""


class TooManyRequests(RequestError):
    """A token asks more often than ``per_second``; the same request will do after ``retry_after_seconds``."""

    def __init__(self, per_second: float, retry_after_seconds: float) -> None:
        super().__init__(f"more than {per_second:g} requests a second: try again in {retry_after_seconds:.3g} s")
        self.per_second = per_second
        self.retry_after_seconds = retry_after_seconds


class StoreError(MusterError):
    """The store could not do what was asked."""


class StaleWrite(StoreError):
    """The row changed since it was read: load again and decide again."""


class StoreUnavailable(StoreError):
    """The database cannot be reached, or its schema is of a newer Muster."""


class EngineError(MusterError):
    """A container engine could not do what was asked."""


class EngineUnavailable(EngineError):
    """The engine or its host does not answer now; the same call may succeed later."""

    def __init__(self, message: str, retry_after_seconds: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class MachineUnreachable(EngineUnavailable):
    """The host itself does not answer, which is more than an engine that is down: what ran there may be gone."""


class EngineRejected(EngineError):
    """The engine will never do this for this container; ``reason`` is the container's reason word."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class StorageError(MusterError):
    """The file storage cannot be used; the message is one line and says what the operator can do.

    The engine fails the start of a container with it, the API answers that it is unavailable.
    """


class FeedError(MusterError):
    """The event feed could not be read; the last published set stays. ``code``: the API's word, if it gave one."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class NotAnApi(FeedError):
    """What answers at the API's address is none: the address is wrong, or something stands before the API for now."""


class FeedRefused(FeedError):
    """The API behind a feed refuses the calls, and will until a person changes something; the message says what."""


class CursorExpired(FeedError):
    """Events after this cursor have been pruned: list again and watch from the new cursor."""


class RegistryError(MusterError):
    """A registry could not do what was asked."""


class RegistryUnavailable(RegistryError):
    """The registry does not answer now: keep the last set and try again."""


class Fenced(RegistryError):
    """The registry holds a set of a newer (epoch, revision): this publisher has lost its lease."""


class BalancerError(MusterError):
    """No replica could be given to a request."""


class NoEndpoints(BalancerError):
    """The service is unknown to the registry, or nobody serves it, and that lasted until the deadline."""

    def __init__(self, service: str, message: str = "") -> None:
        super().__init__(message or f"no endpoint serves {service!r}")
        self.service = service


class QueueFull(BalancerError):
    """As many requests wait for a replica as the queue may hold: back off."""


class QueueTimeout(BalancerError):
    """No replica was free before the deadline."""

    def __init__(self, message: str, waited_seconds: float) -> None:
        super().__init__(message)
        self.waited_seconds = waited_seconds


class CannotMeetDeadline(QueueTimeout):
    """By all that is known the answer would come after the request's deadline, so it was refused while that helps.

    ``expected_seconds`` is how long the answer would have taken from now on.
    """

    def __init__(self, message: str, waited_seconds: float, expected_seconds: float) -> None:
        super().__init__(message, waited_seconds)
        self.expected_seconds = expected_seconds


class NeverFits(BalancerError):
    """The request demands more of a budget than any replica has: ask for less, or deploy larger ones."""


class QueueCancelled(BalancerError):
    """An operator took the waiting request out of the queue (``muster queue cancel``); nothing was sent."""


class BrokerError(MusterError):
    """A broker did not answer what a person asked it; requests go on without one."""


class BrokerUnavailable(BrokerError):
    """No broker that serves the service can be asked now; the message names each that was tried."""


class BrokerRefused(BrokerError):
    """A broker refuses: the token, the service, or the version of the protocol; the message is its own."""


class ApiError(MusterError):
    """Our API answered with an error; quote ``request_id`` when reporting it."""

    def __init__(self, code: str, msg: str, *, status: int = 200, request_id: str = "") -> None:
        super().__init__(f"{code}: {msg}")
        self.code = code
        self.msg = msg
        self.status = status
        self.request_id = request_id


class ApiUnavailable(MusterError):
    """Nobody answers at the API's address, or the connection broke; the message is one line and says what to do."""


class SetupError(MusterError):
    """A process cannot start as it was told to; the message is one line and says what to do."""
