"""Field types that several requests share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

# Without the spaces around it, as the event stores it. No control characters: PostgreSQL stores no NUL, and no
# identifier needs the others.
Identifier = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")
]


class RequestBody(BaseModel):
    """A misspelt field is refused rather than ignored."""

    model_config = ConfigDict(extra="forbid")
