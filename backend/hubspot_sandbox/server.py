"""Running the sandbox: in the foreground for people, in a thread for tests. Both are the same real server."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import TracebackType
from typing import NotRequired, Self, TypedDict, TypeVar, Unpack, cast

import uvicorn

from hubspot_sandbox.account import Account, AccountSettings, Clock
from hubspot_sandbox.application import create_application
from hubspot_sandbox.contacts import Contact
from hubspot_sandbox.faults import FaultKind, FaultOptions, FaultWanted
from hubspot_sandbox.gateway import Gateway
from hubspot_sandbox.switches import Switches
from hubspot_sandbox.transport import TransportInScope
from hubspot_sandbox.wire import JsonObject

# Longer than any client keeps an idle connection, so that a reused one is not closed under a request.
KEEP_ALIVE_SECONDS = 120
STOP_SECONDS_MAX = 5

T = TypeVar("T")


class SeenContact(TypedDict):
    """A contact with all that is set, in the words of HubSpot's API."""

    id: str
    properties: dict[str, str | None]
    createdAt: str
    updatedAt: str
    archived: bool
    archivedAt: NotRequired[str]


class SandboxServer(uvicorn.Server):
    """A uvicorn server that says when it accepts requests and does not wait for delayed answers when it stops."""

    def __init__(
        self, account: Account, *, host: str, port: int, on_listening: Callable[[str], None] = lambda url: None
    ) -> None:
        self._gateway = Gateway(account)
        self._on_listening = on_listening
        self.has_started = threading.Event()
        super().__init__(
            uvicorn.Config(
                create_application(account, self._gateway, host),
                host=host,
                port=port,
                http=TransportInScope,
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=STOP_SECONDS_MAX,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
            self._on_listening(self.url())
        finally:
            self.has_started.set()

    def url(self) -> str:
        """Where a started server answers."""
        if not self.started:
            raise OSError(f"The sandbox could not listen on {self.config.host}:{self.config.port}")
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        return f"http://{host}:{port}"

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._gateway.close()
        await super().shutdown(sockets)


class Sandbox:
    """A sandbox on a free loopback port, for as long as the `with` block lasts.

    Its methods may be called from any thread: each runs between two requests on the server's own loop.
    """

    def __init__(
        self,
        *,
        seed: int | None = None,
        rate_max: int = 190,
        daily_max: int = 625_000,
        portal_id: int = 12345678,
        tokens: Iterable[str] = (),
        time_zone: str = "US/Eastern",
        switches: Switches | None = None,
        settings: AccountSettings | None = None,
        clock: Clock = time.time,
        port: int = 0,
    ) -> None:
        """`settings` has everything an account can be told; the arguments before it are its most used fields."""
        self._account = Account(
            settings
            or AccountSettings(
                portal_id=portal_id,
                tokens=frozenset(tokens),
                requests_per_ten_seconds=rate_max,
                requests_per_day=daily_max,
                time_zone=time_zone,
                seed=seed,
                switches=switches or Switches(),
            ),
            clock,
        )
        self._port = port
        self.faults = SandboxFaults(self)

    def start(self) -> Self:
        """Return once the sandbox answers on `url`."""
        self._server = SandboxServer(self._account, host="127.0.0.1", port=self._port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="hubspot-sandbox", daemon=True)
        self._thread.start()
        self._server.has_started.wait()
        self.url = self._server.url()
        return self

    def stop(self) -> None:
        """Return once the server is gone and its port is free."""
        self._server.should_exit = True
        self._thread.join()

    def _serve(self) -> None:
        # SystemExit is uvicorn's way to say that it cannot listen; `SandboxServer.url` says it too.
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner, suppress(SystemExit):
            runner.run(self._server.serve())

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def contacts(self) -> list[SeenContact]:
        """Every contact with all its properties, oldest first."""
        return self.run(lambda account: [_everything(contact) for contact in account.contacts.page(0, limit=10**9)])

    def contact(self, *, record_id: int | str | None = None, **key: str) -> SeenContact | None:
        """The contact of this record id, or of one unique property (`email="…"`, `nerava_user_id="…"`)."""
        if record_id is not None:
            return self._contact(None, str(record_id))
        [(key_property, value)] = key.items()
        return self._contact(key_property, value)

    def _contact(self, key_property: str | None, value: str) -> SeenContact | None:
        def find(account: Account) -> SeenContact | None:
            if key_property is not None and key_property in account.schema:
                account.schema.key_property(key_property, "read")
            contact = account.contacts.find(key_property, value)
            return _everything(contact) if contact else None

        return self.run(find)

    def requests(self) -> list[JsonObject]:
        """The last API requests, oldest first; each has time, method, path, status, inputs and more."""
        return self.run(lambda account: [record.as_json() for record in account.journal.last()])

    def change(self, **settings: object) -> None:
        """Change some of the account's settings (`AccountSettings` lists them) until it is reset."""
        self.run(lambda account: account.change(settings))

    def switch(self, **switches: object) -> None:
        """Turn some of the account's switches (`Switches` lists them) until it is reset."""
        self.change(switches=switches)

    def wait_until(self, is_true: Callable[[Account], bool], seconds: float = 10.0) -> None:
        """Return once it is; `TimeoutError` after so many seconds."""
        deadline = time.monotonic() + seconds
        while not self.run(is_true):
            if time.monotonic() > deadline:
                raise TimeoutError(f"Not so within {seconds} s")
            time.sleep(0.01)

    def reset(self) -> None:
        """Make the account fresh again: no contacts, faults, requests or own properties."""
        self.run(lambda account: account.reset())

    def run(self, act: Callable[[Account], T]) -> T:
        """What `act` returns, run on the server's loop."""

        async def on_loop() -> T:
            return act(self._account)

        return asyncio.run_coroutine_threadsafe(on_loop(), self._loop).result()


class SandboxFaults:
    """The faults of a running sandbox."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def add(self, kind: FaultKind | str, **options: Unpack[FaultOptions]) -> None:
        """Switch a fault on; `FaultWanted` says what the options mean."""
        wanted = FaultWanted(kind=FaultKind(kind), **options)
        self._sandbox.run(lambda account: account.faults.add(wanted, account.clock()))

    def active(self) -> list[JsonObject]:
        return self._sandbox.run(
            lambda account: [fault.as_json(account.clock()) for fault in account.faults.active(account.clock())]
        )

    def clear(self) -> None:
        self._sandbox.run(lambda account: account.faults.clear())


def _everything(contact: Contact) -> SeenContact:
    return cast(SeenContact, contact.as_json(contact.everything()))
