"""Which characters texts of requests may hold, as an annotation of a field: ``Annotated[str, ONE_LINE]``.

Names are shown within a line by lists, logs and terminals, so they are one line without control characters. Commands
are scripts: tabs and line ends are theirs, any other control character is an accident of pasting that would drive the
terminal of whoever looks at it. NUL and halves of surrogate pairs never come this far (``body``).

A class and not ``Field(pattern=...)``: that tells the caller a regular expression in place of the character.
"""

import re
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema


@dataclass(frozen=True, slots=True)
class Without:
    """No character of ``characters``, which is the inside of a regular expression's brackets."""

    characters: str
    reason: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Look at the text after everything else about it was found right."""
        forbidden = re.compile(f"[{self.characters}]")

        def check(text: str) -> str:
            found = forbidden.search(text)
            if found is not None:
                where = {"code": f"U+{ord(found[0]):04X}", "place": found.start()}
                raise PydanticCustomError("character", f"{self.reason}, has {{code}} at {{place}}", where)
            return text

        return core_schema.no_info_after_validator_function(check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Say the same in OpenAPI."""
        return {**handler(schema), "pattern": f"^[^{self.characters}]*$"}


ONE_LINE = Without(r"\x00-\x1f\x7f-\x9f\u2028\u2029", "must be one line without control characters")
SCRIPT = Without(
    r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f", "must not hold control characters other than tabs and line ends (use printf)"
)
