"""References of images, as people write them for Docker, and what they stand for.

In: ``nginx``, ``lab:5000/team/asr:1.2``, ``nginx@sha256:…``. Out: registry, path, tag and digest, or ``InvalidSpec``
that says what is wrong. ``str()`` is the *familiar* form, which is also how an engine lists what it holds: without the
default registry ``docker.io`` and its ``library/``, with the tag spelled out, and with a digest in place of the tag,
which says nothing then. Two texts mean the same image exactly if their familiar forms are equal, so catalogues and
engines compare those and nothing else.

An image saved from a container has a reference too, below ``SAVED_REGISTRY``. That name can belong to nobody (RFC 2606
reserves ``.invalid``), so such an image is never fetched from anywhere and nobody can be made to fetch another one in
its place.

Source of the grammar: github.com/distribution/reference, ``reference.go`` (the grammar in its package comment),
``regexp.go`` and ``normalize.go`` (what is a registry, the defaults, and that 64 hex digits alone are an image's id).
Narrower on purpose: an engine would find ``sha256:…`` among the images of its host, whoever they belong to, so ids are
no references here; and capital letters do not make a registry of ``Team/asr``, they are nearly always a mistake.
"""

import re
from dataclasses import dataclass

from muster.errors import InvalidSpec
from muster.model.ids import AccountId, ImageUuid

DEFAULT_REGISTRY = "docker.io"
DEFAULT_TAG = "latest"
SAVED_REGISTRY = "saved.muster.invalid"
MOST_NAME_CHARACTERS = 255
"""Of registry and path together; ``NameTotalLengthMax`` of the grammar."""

_FIELD = "reference"
_OFFICIAL = "library/"
_OLD_DEFAULT_REGISTRY = "index.docker.io"
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])"
_REGISTRY = re.compile(rf"{_HOST}(?::[0-9]{{1,5}})?")
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}")
_ID = re.compile(r"[0-9a-f]{64}")
_ID_PREFIX = "sha256"


@dataclass(frozen=True, slots=True)
class Reference:
    """One image of one registry; made by ``parse``. ``tag`` is empty where a digest says more."""

    registry: str
    path: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        """Return the familiar form."""
        return f"{self.name}@{self.digest}" if self.digest else f"{self.name}:{self.tag}"

    @property
    def name(self) -> str:
        """The familiar form without tag and digest."""
        if self.registry != DEFAULT_REGISTRY:
            return f"{self.registry}/{self.path}"
        official = self.path.removeprefix(_OFFICIAL)
        short = self.path if "/" in official else official
        return f"{self.registry}/{short}" if "/" in short and _is_registry(short.partition("/")[0]) else short


def parse(text: str) -> Reference:
    """Read a reference. Raises ``InvalidSpec``."""
    if not text:
        raise InvalidSpec(_FIELD, "is empty; write one like nginx:1.27 or registry.lab:5000/team/asr:2")
    if any(character.isspace() for character in text):
        raise InvalidSpec(_FIELD, f"{text!r} holds a blank")
    if "://" in text:
        raise InvalidSpec(_FIELD, f"{text!r} is a URL; write it without {text.partition('://')[0]}://")
    before, at, digest = text.partition("@")
    if at and _DIGEST.fullmatch(digest) is None:
        raise InvalidSpec(_FIELD, f"{digest!r} is no digest; write @sha256: and 64 lower-case hex digits")
    name, tag = _split_tag(before)
    if tag is not None and _TAG.fullmatch(tag) is None:
        raise InvalidSpec(_FIELD, f"{tag!r} is no tag; use at most 128 letters, digits, '_', '.' and '-'")
    registry, path = _split_registry(name)
    if len(registry) + 1 + len(path) > MOST_NAME_CHARACTERS:
        raise InvalidSpec(_FIELD, f"has a name of more than {MOST_NAME_CHARACTERS} characters")
    _check_path(path)
    reference = Reference(registry, path, "" if at else tag or DEFAULT_TAG, digest)
    if _ID.fullmatch(text) or reference.name == _ID_PREFIX:
        raise InvalidSpec(_FIELD, f"{text!r} is an image's id, which only its host knows; write its name in a registry")
    return reference


def canonical(text: str) -> str:
    """Return the familiar form of a reference. Raises ``InvalidSpec``."""
    return str(parse(text))


def registry_of(text: str) -> str:
    """Return the registry that a reference is fetched from. Raises ``InvalidSpec``."""
    return parse(text).registry


def registry_named(text: str) -> str:
    """Return a registry's name as references have it. Raises ``InvalidSpec`` for what can be none."""
    name = text.strip().lower()
    if _REGISTRY.fullmatch(name) is None:
        raise InvalidSpec("registry", f"{text!r} is no registry; write HOST or HOST:PORT, like registry.lab:5000")
    if not _is_registry(name):
        raise InvalidSpec("registry", f"no reference can name {text!r}: a host without a dot needs its port")
    return DEFAULT_REGISTRY if name == _OLD_DEFAULT_REGISTRY else name


def saved_reference(account_id: AccountId, image: ImageUuid) -> str:
    """Name an image that is saved from a container."""
    return f"{SAVED_REGISTRY}/{account_id}/{image}:{DEFAULT_TAG}"


def is_saved(text: str) -> bool:
    """Tell whether a reference names an image that was saved from a container, and so is on its machine only."""
    return text.startswith(SAVED_REGISTRY + "/")


def saved_by(text: str) -> AccountId | None:
    """Return whose container a saved image is of; ``None`` for what ``saved_reference`` would not name."""
    account, _, _ = text.removeprefix(SAVED_REGISTRY + "/").partition("/")
    return AccountId(int(account)) if is_saved(text) and account.isdecimal() else None


def _split_tag(text: str) -> tuple[str, str | None]:
    """Take off what follows the last colon, unless that is the port of a registry."""
    head, colon, tail = text.rpartition(":")
    return (head, tail) if colon and "/" not in tail else (text, None)


def _split_registry(name: str) -> tuple[str, str]:
    """Part a name into registry and path, filling in the defaults."""
    first, slash, rest = name.partition("/")
    if not slash or not _is_registry(first):
        registry, path = DEFAULT_REGISTRY, name
    else:
        if _REGISTRY.fullmatch(first) is None:
            raise InvalidSpec(_FIELD, f"{first!r} is no registry; write HOST or HOST:PORT")
        registry, path = first.lower(), rest
    if registry == _OLD_DEFAULT_REGISTRY:
        registry = DEFAULT_REGISTRY
    if registry == DEFAULT_REGISTRY and "/" not in path:
        path = _OFFICIAL + path
    return registry, path


def _is_registry(first: str) -> bool:
    """Tell a registry from the first part of a path."""
    return "." in first or ":" in first or first.lower() == "localhost"


def _check_path(path: str) -> None:
    for part in path.removeprefix(_OFFICIAL).split("/"):
        if not part:
            raise InvalidSpec(_FIELD, "lacks a name, or a part of it between two slashes")
        if part != part.lower():
            raise InvalidSpec(_FIELD, f"{part!r} holds capital letters; names of images are lower case")
        if _COMPONENT.fullmatch(part) is None:
            raise InvalidSpec(
                _FIELD, f"{part!r} is no part of a name; use lower-case letters and digits with '.', '_' or '-' between"
            )
