"""What a form sent, read within bounds; `Starlette(max_body_size=…)` refuses what is longer before it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self
from urllib.parse import parse_qs

from starlette.exceptions import HTTPException
from starlette.requests import Request

# A page's worth of ticked events is far below this.
BODY_BYTES_MAX = 64 * 1024
_FIELDS_MAX = 500


@dataclass(frozen=True, slots=True)
class Form:
    """The fields by name; NUL, which no database takes, is taken out of them."""

    fields: Mapping[str, Sequence[str]]

    @classmethod
    def of(cls, encoded: str) -> Self:
        try:
            fields = parse_qs(encoded, max_num_fields=_FIELDS_MAX)
        except ValueError as error:
            raise HTTPException(400, f"A form has {_FIELDS_MAX} fields at most.") from error
        return cls({name: [value.replace("\0", "") for value in values] for name, values in fields.items()})

    @classmethod
    async def read(cls, request: Request) -> Self:
        return cls.of((await request.body()).decode("utf-8", errors="replace"))

    def text(self, name: str, length_max: int = 1000) -> str:
        """The field without blanks around it; empty where it is missing."""
        text = next(iter(self.fields.get(name, [])), "").strip()
        if len(text) > length_max:
            raise HTTPException(400, f"{name} has {length_max} characters at most.")
        return text

    def texts(self, name: str) -> Sequence[str]:
        return self.fields.get(name, [])
