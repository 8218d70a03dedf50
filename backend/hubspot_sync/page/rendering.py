"""Templates and what they may call; everything they show is escaped, and instants are UTC."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from hubspot_sync.redaction import redact

STATIC = Path(__file__).parent / "static"
SCRIPTS = ("vendor/htmx-2.0.11.min.js", "vendor/uplot-1.6.32.min.js")

_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


class Static(StaticFiles):
    """The page's own files. Their addresses carry their sums, so a browser keeps them for good."""

    def __init__(self) -> None:
        super().__init__(directory=STATIC)

    async def get_response(self, path: str, scope: Scope) -> Response:
        answer = await super().get_response(path, scope)
        if answer.status_code == 200:
            answer.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return answer


class Templates:
    def __init__(self) -> None:
        self._environment = Environment(
            loader=PackageLoader("hubspot_sync.page"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= {
            "redacted": redact,
            "count": lambda number: f"{number:,}",
            "instant": lambda instant: f"{instant.astimezone(UTC):%Y-%m-%d %H:%M:%S}",
            "instant_ms": lambda instant: f"{instant.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3],
            "iso": lambda instant: instant.astimezone(UTC).isoformat(timespec="milliseconds"),
            # As a browser's own field for an instant has it, without a zone.
            "field": lambda instant: f"{instant.astimezone(UTC):%Y-%m-%dT%H:%M:%S}",
            # A clock that ran ahead may have dated it.
            "ago": lambda instant: f"{duration_in_words(max(timedelta(0), datetime.now(UTC) - instant))} ago",
            "relative": lambda instant: in_words_of_now(instant, datetime.now(UTC)),
            # The day is told where it is another one.
            "clock": clock_in_words,
            "ahead": lambda instant: f"in {duration_in_words(max(timedelta(0), instant - datetime.now(UTC)))}",
            "duration": duration_in_words,
            "with_code": with_code,
            "sentence": lambda words: f"{words[:1].upper()}{words[1:]}{'' if words.endswith('.') else '.'}",
        }
        self._environment.tests["past"] = lambda instant: instant <= datetime.now(UTC)
        sums = {str(file.relative_to(STATIC)): _sum(file) for file in STATIC.rglob("*") if file.is_file()}
        self._environment.globals["asset"] = lambda path: f"static/{path}?v={sums[path]}"

    def page(self, request: Request, template: str, status: int = 200, **context: object) -> HTMLResponse:
        """The template's page; `root` is where the page is mounted, and `path` where within it the request went."""
        root: str = request.scope.get("root_path", "")
        path = request.url.path.removeprefix(root)
        html = self._environment.get_template(template).render(root=root, path=path, **context)
        # A payload may hold half a surrogate pair, which UTF-8 does not have.
        return HTMLResponse(html.encode(errors="backslashreplace"), status)


def duration_in_words(duration: timedelta | float | None) -> str:
    """The duration, or so many seconds, in its two largest units."""
    seconds = int(duration.total_seconds() if isinstance(duration, timedelta) else duration or 0)
    words: list[str] = []
    for unit, length in _UNITS:
        whole, seconds = divmod(seconds, length)
        if whole:
            words.append(f"{whole} {unit}")
        elif words:
            break
    return " ".join(words[:2]) or "0 s"


def in_words_of_now(instant: datetime, now: datetime) -> str:
    """How far it lies behind or ahead."""
    return f"in {duration_in_words(instant - now)}" if instant > now else f"{duration_in_words(now - instant)} ago"


def with_code(words: str) -> Markup:
    """What stands between backticks as code; everything is escaped."""
    parts = words.split("`")
    if len(parts) % 2 == 0:
        return escape(words)
    shown = (Markup("<code>{}</code>").format(part) if n % 2 else escape(part) for n, part in enumerate(parts))
    return Markup("").join(shown)


def clock_in_words(instant: datetime) -> str:
    at, now = instant.astimezone(UTC), datetime.now(UTC)
    return f"{at:%H:%M} UTC" if at.date() == now.date() else f"{at:%Y-%m-%d %H:%M} UTC"


def query_number(request: Request, name: str) -> int | None:
    """A positive number of the query; None when it is missing. What is no number is the request's fault."""
    text = request.query_params.get(name, "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise HTTPException(400, f"{name} is no number.")
    return int(text)


def _sum(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]
