"""The wire of the catalogue: our bodies about images, prewarms and registries; AutoDL's lists are in ``schemas``."""

from typing import Annotated

from pydantic import BaseModel, Field, SecretStr

from muster.api.schemas import MAX_TEXT, Name, RequestBody

ImageName = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\s\x00-\x1f\x7f]+$")]
"""A word: what a deployment file writes after ``image:``."""
ReferenceText = Annotated[str, Field(max_length=512)]


class BindImage(RequestBody):
    """A name of the catalogue and the reference that it is to stand for from now on; ``base``: for everybody."""

    name: ImageName
    reference: ReferenceText
    base: bool = False


class SaveImage(RequestBody):
    """A container whose files are to become an image, and its name."""

    container_uuid: Name
    name: ImageName


class WantPrewarm(RequestBody):
    """Which machines are to hold an image; both lists add up, and nothing given means all on offer."""

    machine_ids: list[Name] = Field(default_factory=list)
    data_centers: list[Name] = Field(default_factory=list)


class RegistryLogin(RequestBody):
    """What a registry asks for; it is kept encrypted and never told again."""

    username: Annotated[str, Field(min_length=1, max_length=255)]
    password: Annotated[SecretStr, Field(min_length=1, max_length=MAX_TEXT)]


class CatalogueRow(BaseModel):
    """An image that a deployment may name. ``digest`` is what the reference stood for when it was last fetched.

    ``held_on`` are the machines that hold the reference; ``message`` says why saving failed.
    """

    image_uuid: str
    name: str
    is_base: bool
    reference: str
    digest: str
    status: str
    message: str
    source_container_uuid: str | None
    held_on: list[str]
    created_at: str
    updated_at: str


class Catalogue(BaseModel):
    """The account's images and then those of the platform, newest first each."""

    images: list[CatalogueRow]


class BoundImage(BaseModel):
    """What a name stands for now. If it was ``rebound``, what it stood for before.

    ``outdated_on`` are the machines that hold what it stood for before: an offer to prewarm them, nothing more.
    """

    image: CatalogueRow
    rebound: bool
    old_reference: str
    old_digest: str
    outdated_on: list[str]


class PrewarmRow(BaseModel):
    """How far a machine is: ``wanted done failed``; ``message`` is the progress, or why it failed."""

    machine_id: str
    state: str
    message: str
    updated_at: str


class PrewarmList(BaseModel):
    """Prewarms of one image, by machine."""

    prewarms: list[PrewarmRow]


class RegistryList(BaseModel):
    """The registries that the account has credentials for, by name."""

    registries: list[str]
