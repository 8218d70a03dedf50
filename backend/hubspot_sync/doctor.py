"""Everything that deliveries depend on, looked at once: each finding says pass, warn or fail, and what to do."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, Field
from sqlalchemy import Connection, literal, select
from sqlalchemy.exc import DBAPIError

from hubspot_sync.account import Account, read_account
from hubspot_sync.answer import Answer, http_date, parsed
from hubspot_sync.check import Check, failed, listed, passed, warned
from hubspot_sync.client import HubSpotClient
from hubspot_sync.database_checks import database_checks, role_checks
from hubspot_sync.entries import Entry
from hubspot_sync.errors import NoAnswer, Refused
from hubspot_sync.integration import Integration
from hubspot_sync.limits import DailyLimit, call_in_control_slot
from hubspot_sync.provisioning import plan_provisioning
from hubspot_sync.validation_rules import check_rules
from sqlalchemy_outbox.clock import Instant, SecondsUntil
from sqlalchemy_outbox.database.isolation import sqlstate_of
from sqlalchemy_outbox.gate.gate import Gate, GateShut
from sqlalchemy_outbox.model import GateState
from sqlalchemy_outbox.operating.rights import INSUFFICIENT_PRIVILEGE, Job, missing_rights, unusable_schema
from sqlalchemy_outbox.operating.status import Status, longest_due_seconds, read_status

SCOPES = (
    "crm.objects.contacts.read",
    "crm.objects.contacts.write",
    "crm.schemas.contacts.read",
    "crm.schemas.contacts.write",
)
# Without this one nothing is delivered; the others serve provisioning and this doctor.
SCOPE_TO_DELIVER = "crm.objects.contacts.write"
# What is due longer than this while the gate is open is in nobody's hands.
UNATTENDED_AFTER = timedelta(minutes=1)
SKEW_MAX = timedelta(seconds=30)
DAILY_SHARE_WARN = 0.9


async def examine(integration: Integration) -> list[Check]:
    """Look at everything. HubSpot is asked only where a token is set, and each question takes its slot."""
    checks = list(_settings(integration))
    database, status = _database(integration)
    checks += database
    if status is not None:
        checks += [*_backlog(integration, status), _gate(status)]
    if not integration.settings.hubspot_private_app_token.get_secret_value():
        return checks
    if status is None:
        return [
            *checks,
            warned("hubspot", "not asked, because slots come from the database", "mend the database first"),
        ]
    async with integration.client() as client:
        gate = integration.gate()
        await gate.prepare()
        checks += await _HubSpotSide(integration, client, gate).checks()
    return checks


def _settings(integration: Integration) -> Iterator[Check]:
    settings = integration.settings
    mode = "live" if settings.hubspot_send_live else "a dry run: nothing is sent, and events are used up"
    if not settings.hubspot_enabled:
        yield warned(
            "worker",
            "HUBSPOT_ENABLED=false: no worker runs",
            "set HUBSPOT_ENABLED=true once events may be sent",
            Entry.NOTHING_IS_SENT,
        )
    elif (missing := settings.missing_for_live()) is not None:
        yield failed(
            "settings", f"live, but {missing}", "set what is empty; until then no worker starts", Entry.NOTHING_IS_SENT
        )
    elif settings.hubspot_send_live:
        yield passed("settings", f"enabled, {mode}")
    else:
        yield warned("settings", f"enabled, {mode}", "set HUBSPOT_SEND_LIVE=true to deliver", Entry.DRY_RUN)
    if not settings.hubspot_private_app_token.get_secret_value() and not settings.hubspot_send_live:
        yield warned("token", "HUBSPOT_PRIVATE_APP_TOKEN is empty, so HubSpot was not asked", "set it to look further")
    url = urlsplit(settings.hubspot_base_url)
    if url.scheme != "https" and not _is_this_machine(url.hostname or ""):
        yield warned(
            "base url",
            f"HUBSPOT_BASE_URL sends the token to {url.hostname} unencrypted",
            "use https, unless the way there is yours alone",
        )


def _database(integration: Integration) -> tuple[list[Check], Status | None]:
    if (file := integration.missing_file()) is not None:
        return [failed("database", f"there is no {file}", integration.how_to_migrate)], None
    try:
        with integration.engine.connect() as connection:
            if (schema := unusable_schema(connection, integration.outbox)) is not None:
                return [_schema_is_closed(schema)], None
            missing = integration.missing_in(connection)
            if missing is not None:
                return [failed("database", missing, integration.how_to_migrate, Entry.UNREADABLE)], None
            status = read_status(connection, integration.outbox)
            skew = _skew(connection)
            checks = list(database_checks(integration, connection))
    except DBAPIError as error:
        first_line = str(error.orig).splitlines()[0]
        if sqlstate_of(error) == INSUFFICIENT_PRIVILEGE:
            return _role(integration, first_line), None
        words = f"it does not serve the outbox ({first_line})"
        return [failed("database", words, "is it there, and migrated?", Entry.UNREADABLE)], None
    return [passed("database", "reachable and migrated"), *checks, _clock("the database's", skew)], status


def _schema_is_closed(schema: str) -> Check:
    return failed(
        "database",
        f"this role may not look into schema {schema}, which has the outbox",
        f"GRANT USAGE ON SCHEMA {schema}",
    )


def _role(integration: Integration, refusal: str) -> list[Check]:
    """Of a role that may not read all of the outbox, as an application's need not."""
    with integration.engine.connect() as connection:
        checks = list(role_checks(integration, connection))
        serves_none = all(any(missing_rights(connection, integration.outbox, job)) for job in Job)
    verdict = failed if serves_none else warned
    detail = f"this role may not read all of the outbox ({refusal}), so no more than its rights was looked at"
    return [verdict("database", detail, "run this as the role of a worker to look further"), *checks]


def _skew(connection: Connection) -> timedelta:
    now = datetime.now(UTC)
    behind: float = connection.execute(select(SecondsUntil(literal(now, Instant())))).scalar_one()
    return timedelta(seconds=behind)


def _backlog(integration: Integration, status: Status) -> Iterator[Check]:
    yield from _waits(status)
    waiting = status.pending + status.claimed - sum(wait.events for wait in status.waiting)
    age = timedelta(seconds=status.oldest_pending_seconds or 0)
    waits = f"{waiting} {'event waits' if waiting == 1 else 'events wait'}, the oldest for {age.total_seconds():.0f} s"
    if not waiting:
        yield passed("backlog", "no event waits")
    elif not integration.settings.hubspot_enabled:
        yield warned("backlog", f"{waits}, and HUBSPOT_ENABLED=false", "they are delivered once a worker runs")
    elif status.gate.state is not GateState.OPEN or status.claimed or _longest_due(integration) < UNATTENDED_AFTER:
        yield passed("backlog", waits)
    else:
        yield failed(
            "backlog",
            f"{waits}; some are due for more than {UNATTENDED_AFTER.seconds} s and no worker takes them",
            "start the application, or `worker`, and look at its log",
            Entry.LAG,
        )
    if status.failed:
        yield warned(
            "failed events",
            f"{status.failed} events have failed",
            "see their last_error, then `retry` them",
            Entry.FAILED,
        )


def _waits(status: Status) -> Iterator[Check]:
    for wait in status.waiting:
        yield warned(
            "waiting events",
            f"{wait.events} since {wait.since:%Y-%m-%d %H:%M:%S} UTC: {wait.reason}",
            "once that is mended, they go on by themselves within a minute",
            Entry.TYPE_WAITS,
        )


def _longest_due(integration: Integration) -> timedelta:
    """For how long the event that has been due the longest could have been claimed."""
    with integration.engine.connect() as connection:
        seconds = longest_due_seconds(connection, integration.outbox, integration.types)
    return timedelta(seconds=seconds)


def _gate(status: Status) -> Check:
    gate = status.gate
    match gate.state:
        case GateState.OPEN:
            return passed("gate", "open")
        case GateState.THROTTLED:
            entry = Entry.DAY if "HUBSPOT_DAILY_RESERVE" in (gate.reason or "") else Entry.THROTTLED
            words = f"throttled until {gate.until:%H:%M:%S} UTC: {gate.reason}"
            return warned("gate", words, "wait; it opens by itself", entry)
        case GateState.HELD:
            return failed(
                "gate",
                f"held: {gate.reason}",
                "mend that; a worker tries again every 60 s and when it starts",
                Entry.HELD,
            )


def _clock(whose: str, skew: timedelta) -> Check:
    seconds = skew.total_seconds()
    if abs(skew) <= SKEW_MAX:
        return passed("clock", f"within {abs(seconds):.1f} s of {whose}")
    return warned("clock", f"{seconds:+.0f} s from {whose}", "let both machines keep their clocks by NTP", Entry.LAG)


class _HubSpotSide:
    """The questions that HubSpot answers."""

    def __init__(self, integration: Integration, client: HubSpotClient, gate: Gate) -> None:
        self._integration = integration
        self._client = client
        self._gate = gate

    async def checks(self) -> list[Check]:
        try:
            details = await call_in_control_slot(self._gate, self._client.account_details)
            if (account := read_account(details)) is None or not details.is_success:
                return [_token_refused(details)]
            return [
                passed("token", "HubSpot accepts it"),
                self._portal(account),
                *_hubspots_clock(details),
                await self._asked("scopes", self._client.token_scopes, _scopes),
                await self._asked("daily limit", self._client.daily_usage, lambda it: self._daily(it, account)),
                await self._properties(),
                *await check_rules(self._client, self._gate, self._integration),
            ]
        except NoAnswer as error:
            return [failed("hubspot", f"no answer ({error})", "is the network up? see HubSpot's status page")]
        except GateShut as shut:
            return [warned("hubspot", f"not asked, because of its limits ({shut})", "look again when that is over")]

    async def _asked(self, name: str, call: Callable[[], Awaitable[Answer]], judge: Callable[[Answer], Check]) -> Check:
        try:
            return judge(await call_in_control_slot(self._gate, call))
        except NoAnswer as error:
            return warned(name, f"unknown ({error})", "look again")

    def _portal(self, account: Account) -> Check:
        meant = self._integration.settings.hubspot_portal_id.strip()
        where = f"portal {account.portal_id} ({account.type or 'type unknown'}, {account.time_zone_name})"
        if not meant:
            return warned(
                "portal", f"the token belongs to {where}", f"set HUBSPOT_PORTAL_ID={account.portal_id} if meant"
            )
        if meant != account.portal_id:
            return failed(
                "portal",
                f"the token belongs to {where}, HUBSPOT_PORTAL_ID says {meant}",
                "set the token or the portal that is meant; nothing is written until they agree",
                Entry.HELD,
            )
        return passed("portal", where)

    def _daily(self, answer: Answer, account: Account) -> Check:
        limit = DailyLimit.read(answer.headers) or _usage(answer)
        if limit is None:
            return warned("daily limit", "unknown", "look at the key's usage in HubSpot")
        used = limit.maximum - limit.remaining
        detail = f"{used} of {limit.maximum} requests used; the day ends at midnight in {account.time_zone_name}"
        reserve = self._integration.settings.hubspot_daily_reserve
        if not limit.leaves(reserve):
            return warned(
                "daily limit", detail, f"events wait for midnight: HUBSPOT_DAILY_RESERVE is {reserve:g}", Entry.DAY
            )
        if used > limit.maximum * DAILY_SHARE_WARN:
            return warned("daily limit", detail, "find out which integration uses it up", Entry.DAY)
        return passed("daily limit", detail)

    async def _properties(self) -> Check:
        try:
            plan = await plan_provisioning(self._client, self._gate, self._integration.catalog)
        except (NoAnswer, Refused) as error:
            return warned("properties", f"unknown ({error})", "grant the token crm.schemas.contacts.read")
        if plan.differences:
            return failed("properties", "; ".join(plan.differences), "do that, then run `provision`", Entry.TYPE_WAITS)
        if plan.is_empty:
            return passed("properties", "group and properties are as declared")
        return failed("properties", "; ".join(plan.lines()), "run `provision`", Entry.TYPE_WAITS)


def _token_refused(answer: Answer) -> Check:
    if answer.is_success:
        return failed("token", "HubSpot's answer names no portal", "check HUBSPOT_BASE_URL and HUBSPOT_API_VERSION")
    if answer.status == 401:
        return failed(
            "token",
            answer.summary(),
            "set HUBSPOT_PRIVATE_APP_TOKEN to a valid key, and restart the worker",
            Entry.HELD,
        )
    return failed("token", answer.summary(), "check HUBSPOT_BASE_URL and HUBSPOT_API_VERSION, or look again later")


class _Token(BaseModel):
    scopes: list[str]


def _scopes(answer: Answer) -> Check:
    token = parsed(_Token, answer.body) if answer.is_success else None
    if token is None:
        return warned(
            "scopes", f"unknown (HubSpot answered {answer.status})", f"see in HubSpot that it has {listed(SCOPES)}"
        )
    missing = [scope for scope in SCOPES if scope not in token.scopes]
    if not missing:
        return passed("scopes", listed(SCOPES))
    verdict = failed if SCOPE_TO_DELIVER in missing else warned
    return verdict("scopes", f"the token lacks {listed(missing)}", "grant them in HubSpot", Entry.HELD)


class _Usage(BaseModel):
    results: list[dict[str, Any]] = Field(default_factory=list)


def _usage(answer: Answer) -> DailyLimit | None:
    usage = parsed(_Usage, answer.body) if answer.is_success else None
    for usage_of in usage.results if usage else []:
        limit, used = usage_of.get("usageLimit"), usage_of.get("currentUsage")
        if usage_of.get("name") == "private-apps-api-calls-daily" and isinstance(limit, int) and isinstance(used, int):
            return DailyLimit(limit, limit - used)
    return None


def _hubspots_clock(answer: Answer) -> Iterator[Check]:
    if (there := http_date(answer.headers.get("date", ""))) is not None:
        yield _clock("HubSpot's", datetime.now(UTC) - there)


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
