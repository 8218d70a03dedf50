"""Who was forgotten, by name, and the certificate of each: what was erased where, and when."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hubspot_sync.errors import ErasureKeyMissing
from hubspot_sync.forgetting import certificates_of
from hubspot_sync.page.context import PageContext
from hubspot_sync.page.forms import Form
from sqlalchemy_outbox import operations
from sqlalchemy_outbox.erasure.certificates import Certificate

CERTIFICATES_SHOWN = 50
_SUBJECT_LENGTH_MAX = 500


class Erasures:
    """Looked up by the subject, or by the name that a certificate has: only who has the key can match the two."""

    def __init__(self, context: PageContext) -> None:
        self._context = context

    def routes(self) -> list[Route]:
        return [
            Route("/erasures", self.show, methods=["GET"]),
            Route("/erasures.json", self.export, methods=["GET"]),
        ]

    def show(self, request: Request) -> Response:
        subject, found = self._found(request)
        return self._context.show(
            request,
            "erasures.html",
            asked=subject,
            certificates=found,
            shown_max=CERTIFICATES_SHOWN,
            query=request.url.query,
            has_key=self._context.outbox.names.has_key,
        )

    def export(self, request: Request) -> Response:
        """The same as a file."""
        _, found = self._found(request)
        headers = {"Content-Disposition": 'attachment; filename="erasures.json"'}
        return JSONResponse({"erasures": [certificate.as_json() for certificate in found]}, headers=headers)

    def _found(self, request: Request) -> tuple[str, list[Certificate]]:
        context, form = self._context, Form.of(request.url.query)
        subject, name = form.text("subject", _SUBJECT_LENGTH_MAX), form.text("name", _SUBJECT_LENGTH_MAX)
        if not subject:
            found = operations.read_certificates(context.engine, context.outbox, name or None, limit=CERTIFICATES_SHOWN)
            return "", found
        try:
            return subject, certificates_of(context.integration, subject)
        except ErasureKeyMissing as error:
            raise HTTPException(409, str(error)) from error
