"""What all views of the page share, from the application's start to its stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from hubspot_sync.event import Catalog
from hubspot_sync.integration import Integration
from hubspot_sync.page.fleet import Fleet
from hubspot_sync.page.forms import Form
from hubspot_sync.page.jobs import Jobs
from hubspot_sync.page.notice import Notice
from hubspot_sync.page.notices import mark_of, notices
from hubspot_sync.page.rendering import Templates
from hubspot_sync.page.sessions import Seal, Session
from hubspot_sync.page.sign_in import session_of
from hubspot_sync.page.snapshots import Snapshots
from hubspot_sync.runtime import WorkerStatus
from sqlalchemy_outbox import operations
from sqlalchemy_outbox.model import Outbox
from sqlalchemy_outbox.operations import Snapshot

Act = Callable[[Request, Form], Response]


@dataclass(frozen=True, slots=True)
class PageContext:
    """`worker` tells how this process's worker is."""

    integration: Integration
    worker: Callable[[], WorkerStatus]
    seal: Seal
    templates: Templates
    snapshots: Snapshots
    jobs: Jobs

    @property
    def engine(self) -> Engine:
        return self.integration.engine

    @property
    def outbox(self) -> Outbox:
        return self.integration.outbox

    @property
    def catalog(self) -> Catalog:
        return self.integration.catalog

    def is_ended(self, session: Session) -> bool:
        """Whether it was ended before its time; reads the database, so it is for a thread."""
        ends_at = datetime.fromtimestamp(session.ends_at, UTC)
        return operations.is_session_ended(self.engine, self.outbox, session.id, ends_at)

    def notices(self, snapshot: Snapshot) -> list[Notice]:
        return notices(snapshot, self.worker(), self.integration.settings)

    def show(self, request: Request, template: str, status: int = 200, **context: object) -> HTMLResponse:
        """The template's page with what stands on top of each; reads the database, so it is for a thread."""
        session = session_of(request)
        snapshot = operations.snapshot(self.engine, self.outbox)
        shown = self.notices(snapshot)
        return self.templates.page(
            request,
            template,
            status,
            session=session,
            form_token=self.seal.form_token(session),
            snapshot=snapshot,
            fleet=Fleet.of(snapshot.workers or ()),
            notices=shown,
            notices_mark=mark_of(shown),
            **context,
        )

    def action(self, path: str, act: Act) -> Route:
        """The only way to a route that changes something: it wants an operator, who sent a form of this session."""

        def act_as_operator(request: Request, form: Form) -> Response:
            if not session_of(request).may_act:
                raise HTTPException(403, "You are signed in as a reader: only an operator can do this.")
            return act(request, form)

        return self.form(path, act_as_operator)

    def form(self, path: str, act: Act) -> Route:
        """What everybody who is signed in may do with a form of this session; `act` runs in a thread."""

        async def endpoint(request: Request) -> Response:
            form = await Form.read(request)
            if not self.seal.accepts(session_of(request), form.text("form_token")):
                raise HTTPException(403, "This form is not of your session. Go back, reload the page, and try again.")
            return await run_in_threadpool(act, request, form)

        return Route(path, endpoint, methods=["POST"])

    def place(self, request: Request, path: str) -> str:
        """Where `path` within the page is for a browser."""
        root: str = request.scope.get("root_path", "")
        return root + path
