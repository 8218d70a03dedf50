"""`python -m app.cli`, as a person or a script runs it: what is printed, and the exit code."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, text
from typer.testing import CliRunner, Result

from app.cli import cli
from app.events import CATALOG
from app.models import OUTBOX
from hubspot_sandbox import Sandbox
from sqlalchemy_outbox import operations
from sqlalchemy_outbox.housekeeping import workers
from sqlalchemy_outbox.housekeeping.workers import Sign
from tests.hubspot.conftest import HubSpot, settings_for


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Both: what a person sees must not depend on the database."""
    kind = "migrated_sqlite_url" if request.param == "sqlite" else "migrated_postgres_url"
    url: str = request.getfixturevalue(kind)
    return url


pytestmark = pytest.mark.usefixtures("terminal")


def run(*arguments: str) -> Result:
    try:
        return CliRunner().invoke(cli, arguments, env={"COLUMNS": "200"})
    finally:
        # Its handler writes to where the command's stderr was.
        for handler in [it for it in logging.getLogger().handlers if it.name == "hubspot_sync"]:
            logging.getLogger().removeHandler(handler)


@pytest.fixture
def hubspot(engine: Engine, sandbox: Sandbox) -> HubSpot:
    return HubSpot(engine, sandbox, settings_for(sandbox))


def test_status_counts_events_as_json(hubspot: HubSpot) -> None:
    hubspot.sign_up("driver-1")
    hubspot.track("no_such_event", {"user_id": "driver-1"})
    status = json.loads(run("status", "--json").stdout)
    assert status.pop("oldest_pending_seconds") >= 0
    assert status == {
        "pending": 1,
        "claimed": 0,
        "delivered": 0,
        "failed": 1,
        "gate": {"state": "open", "until": None, "reason": None, "held_by": None},
        "waiting": [],
    }


def test_status_says_in_words_what_keeps_events_waiting() -> None:
    assert "HUBSPOT_ENABLED=false" in run("status").output


@pytest.mark.usefixtures("dry_run")
def test_worker_once_delivers_what_is_due_and_exits(hubspot: HubSpot) -> None:
    event_id = hubspot.sign_up("driver-1")
    assert run("worker", "--once").exit_code == 0
    assert hubspot.is_delivered(event_id)


def test_disabled_worker_says_so_and_exits_0(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert run("worker").exit_code == 0
    assert "HubSpot sync worker not started (HUBSPOT_ENABLED=false)" in caplog.messages


@pytest.mark.usefixtures("dry_run")
def test_live_worker_without_a_token_says_what_to_set_and_exits_1(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HUBSPOT_SEND_LIVE", "true")
    assert run("worker").exit_code == 1
    assert "HUBSPOT_PRIVATE_APP_TOKEN and HUBSPOT_PORTAL_ID are empty" in caplog.text
    assert "HUBSPOT_PRIVATE_APP_TOKEN and HUBSPOT_PORTAL_ID are empty" in run("status").output


def test_account_is_planned_then_provisioned_then_delivered_to(live: Sandbox, hubspot: HubSpot) -> None:
    event_id = hubspot.sign_up("driver-1", email="ada@example.com")
    held = run("worker", "--once")
    assert held.exit_code == 1
    assert "run `provision`" in held.output
    assert "held" in run("status").output
    assert "create property nerava_user_id (string, unique)" in run("provision", "--plan").output
    assert run("provision").exit_code == 0
    assert "nothing to do" in run("provision").output
    assert run("worker", "--once").exit_code == 0
    assert hubspot.is_delivered(event_id)
    assert live.contact(email="ada@example.com") is not None


def test_retry_makes_failed_events_pending_and_names_those_that_were_not(hubspot: HubSpot) -> None:
    failed: UUID = hubspot.track("nova_earned", {"user_id": "driver-1"})
    of_no_known_type = hubspot.track("no_such_event", {"user_id": "driver-1"})
    unknown = uuid4()
    result = run("retry", str(failed), str(unknown), str(of_no_known_type))
    assert result.exit_code == 1
    assert f"{failed}  pending again" in result.output
    assert f"{unknown}  left alone" in result.output
    assert f"{of_no_known_type}  left alone" in result.output
    assert run("retry", str(failed)).exit_code == 1


def test_missing_table_is_named_with_the_remedy(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE outbox_events"))
    for command in (["status"], ["retry", str(uuid4())]):
        result = run(*command)
        assert result.exit_code == 1
        assert "migrated to head" in result.output
        assert "run `alembic upgrade head`" in result.output


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_command_before_the_migration_names_what_to_run_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "not-there.db"
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{file}")
    line = f"There is no database {file}; run `alembic upgrade head`.\n"
    result = run("status")
    assert (result.exit_code, result.output) == (1, line)
    assert run("worker").exit_code == 0
    monkeypatch.setenv("HUBSPOT_ENABLED", "true")
    result = run("worker", "--once")
    assert (result.exit_code, result.output) == (1, line)
    [database] = [it for it in json.loads(run("doctor", "--json").stdout)["checks"] if it["name"] == "database"]
    assert (database["finding"], database["remedy"]) == ("fail", "run `alembic upgrade head`")
    assert not file.exists()


def test_unreachable_hubspot_ends_provisioning_with_one_line(live: Sandbox) -> None:
    live.faults.add("down")
    result = run("provision")
    assert result.exit_code == 1
    assert result.output.strip().splitlines()[-1] == "GET /account-info/2026-09/details: the connection was cut off"
    assert "Traceback" not in result.output


def test_setting_that_makes_no_sense_is_named_with_what_it_should_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBSPOT_BATCH_SIZE", "0")
    result = run("status")
    assert result.exit_code == 1
    assert result.output.strip() == "HUBSPOT_BATCH_SIZE: Input should be greater than or equal to 1"


def fail_three(hubspot: HubSpot) -> list[UUID]:
    return [hubspot.track("nova_earned", {"user_id": f"driver-{n}", "email": "ada@example.com"}) for n in range(3)]


def test_events_are_listed_page_by_page_newest_first(hubspot: HubSpot) -> None:
    ids = [str(hubspot.sign_up(f"driver-{n}")) for n in range(5)]
    first = json.loads(run("events", "--limit", "3", "--json").stdout)
    rest = json.loads(run("events", "--limit", "3", "--before", str(first["next"]), "--json").stdout)
    assert [it["event_id"] for it in first["events"] + rest["events"]] == ids[::-1]
    assert rest["next"] is None


def test_events_in_a_pipe_are_one_line_each_without_colours(hubspot: HubSpot) -> None:
    hubspot.sign_up("driver-1")
    failed = fail_three(hubspot)
    _, *lines = run("events", "--state", "failed").stdout.splitlines()
    assert [it.split("\t")[0] for it in lines] == [str(it) for it in failed[::-1]]
    assert all(it.split("\t")[1:4] == ["failed", "nova_earned", f"driver-{2 - n}"] for n, it in enumerate(lines))
    assert "\x1b" not in "".join(lines)


@pytest.mark.parametrize("arguments", [["events", "--older-than", "soon"], ["retry"], ["discard"], ["resync"]])
def test_command_that_makes_no_sense_exits_2(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_retry_of_a_filter_tells_the_number_first(hubspot: HubSpot) -> None:
    failed = fail_three(hubspot)
    assert "3 events would be tried again" in run("retry", "--type", "nova_earned").stdout
    assert hubspot.row(failed[0]).failed_at
    assert run("retry", "--all", "--yes").stdout == "Pending again: 3 events.\n"
    assert all(hubspot.row(it).failed_at is None for it in failed)


def test_discard_keeps_each_event_and_who_discarded_it(hubspot: HubSpot) -> None:
    failed = fail_three(hubspot)
    pending = hubspot.sign_up("driver-9")
    assert "would be discarded" in run("discard", str(failed[0]), "--why", "a test").stdout
    result = run("discard", str(failed[0]), str(pending), "--why", "a test", "--yes")
    assert "Discarded: 1 event." in result.stdout
    assert result.exit_code == 1
    assert hubspot.row(pending)
    shown = json.loads(run("show", str(failed[0]), "--json").stdout)
    assert shown["discarded"]["reason"] == "a test"
    [entry] = json.loads(run("audit", "--json").stdout)["entries"]
    assert (entry["action"], entry["count"], entry["reason"]) == ("discard", 1, "a test")
    assert entry["by"].startswith("cli:")


@pytest.mark.parametrize("event_type", ["nova_earned", "driver_signed_up"])
def test_show_reveals_a_person_only_when_asked_and_the_audit_keeps_it(hubspot: HubSpot, event_type: str) -> None:
    event_id = hubspot.track(
        event_type, {"user_id": "driver-1", "email": "ada@example.com", "created_at": "2026-11-24T06:40:02Z"}
    )
    for arguments in (["show", str(event_id)], ["show", str(event_id), "--json"], ["events"], ["reasons"]):
        assert "ada@" not in run(*arguments).output
    assert json.loads(run("audit", "--json").stdout)["entries"] == []
    assert "ada@example.com" in run("show", str(event_id), "--reveal").stdout
    [entry] = json.loads(run("audit", "--json").stdout)["entries"]
    assert (entry["action"], entry["detail"]) == ("reveal", {"subject": "driver-1"})


def test_show_of_an_unknown_event_exits_1() -> None:
    assert run("show", str(uuid4())).exit_code == 1


def test_hold_of_a_person_outlasts_a_worker_until_its_release(live: Sandbox, hubspot: HubSpot) -> None:
    hubspot.provision()
    event_id = hubspot.sign_up("driver-1", email="ada@example.com")
    run("hold", "an import runs")
    assert run("worker", "--once").exit_code == 1
    assert not hubspot.is_delivered(event_id)
    status = json.loads(run("status", "--json").stdout)["gate"]
    assert (status["state"], status["reason"]) == ("held", "an import runs")
    assert run("release").exit_code == 0
    assert run("worker", "--once").exit_code == 0
    assert hubspot.is_delivered(event_id)


def test_history_and_workers_say_what_happened_and_who_did_it(hubspot: HubSpot) -> None:
    hubspot.provision()
    hubspot.sign_up("driver-1")
    hubspot.deliver()
    operations.hold(hubspot.engine, OUTBOX, "import until noon", by="cli:ada")
    *_, now = run("history", "--range", "1h").stdout.splitlines()
    fields = now.split("\t")
    assert fields[2:4] == ["1", "0"]
    assert "gate held: import until noon; hold by ada: import until noon" in fields[-1]
    told = json.loads(run("history", "--range", "24h", "--json").stdout)
    assert (len(told["points"]), told["span_seconds"]) == (144, 600)
    assert told["points"][-1]["by_type"]["driver_signed_up"]["delivered"] == 1
    assert told["points"][0]["delivered"] is None
    assert "no worker lived" in run("history", "--range", "7d").stdout
    with hubspot.engine.begin() as connection:
        workers.note_alive(connection, OUTBOX, "w1", CATALOG.types, Sign("1.1", in_flight=3))
    _, row = run("workers").stdout.splitlines()
    assert row.split("\t")[1:3] == ["1.1", "alive"]
    (worker,) = json.loads(run("workers", "--json").stdout)["workers"]
    assert (worker["version"], worker["in_flight"], worker["is_dead"]) == ("1.1", 3, False)


def test_pending_event_says_when_its_turn_comes_and_a_span_of_time_narrows_the_list(hubspot: HubSpot) -> None:
    first, second = hubspot.sign_up("driver-1"), hubspot.sign_up("driver-1")
    shown = run("show", str(second)).stdout
    assert "next  attempt 1 of 3, due at " in shown
    assert f"behind 1 event of its subject: {first} (pending)" in shown
    found = json.loads(run("show", str(second), "--json").stdout)["next"]
    assert (found["attempt"], found["behind"], found["behind_count"]) == (1, [str(first)], 1)
    assert found["due_at"] == json.loads(run("events", "--json").stdout)["events"][0]["due_at"]
    for words, number in ((("--since", "1h"), 2), (("--until", "1h"), 0), (("--since", "2026-11-30T23:00+01:00"), 2)):
        assert len(json.loads(run("events", "--json", *words).stdout)["events"]) == number
    assert run("events", "--since", "yesterday").exit_code == 2


def test_failed_events_of_a_span_of_time_are_retried_and_discarded_and_no_others(hubspot: HubSpot) -> None:
    fail_three(hubspot)
    assert "0 events would be tried again" in run("retry", "--until", "1h").stdout
    assert "3 events would be discarded" in run("discard", "--since", "1h", "--why", "a test").stdout
    assert run("retry", "--since", "1h", "--all").exit_code == 2
    assert "Pending again: 3 events." in run("retry", "--since", "1h", "--yes").stdout
    [entry] = operations.read_audit(hubspot.engine, OUTBOX)
    assert set(entry.detail) == {"state", "since"}


def test_release_of_an_open_gate_says_so_and_nothing_is_recorded(hubspot: HubSpot) -> None:
    assert "The gate is open; there was nothing to release." in run("release").stdout
    assert operations.read_audit(hubspot.engine, OUTBOX) == []
    run("hold", "an import")
    assert "Released; it was held" in run("release").stdout
    assert [entry.action for entry in operations.read_audit(hubspot.engine, OUTBOX)] == ["release", "hold"]


def test_status_says_since_when_the_gate_is_shut_with_the_zone(hubspot: HubSpot) -> None:
    run("hold", "an import")
    instant = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"
    assert re.search(f"gate  held by cli:.+ since {instant} until `release`", run("status").stdout)
    assert re.search(rf"\t{instant}\t", f"\t{run('audit').stdout.splitlines()[1]}")


def test_rows_have_a_line_of_headings_and_none_where_there_is_no_row(hubspot: HubSpot) -> None:
    assert run("events").stdout == ""
    hubspot.sign_up("driver-1")
    headings, row = run("events").stdout.splitlines()
    assert headings.split("\t") == ["event", "state", "type", "subject", "enqueued", "attempts", "due", "error"]
    assert len(row.split("\t")) == 8


def test_log_lines_do_not_come_between_what_a_command_prints(hubspot: HubSpot) -> None:
    hubspot.track("no_such_event", {"user_id": "driver-1"})
    for words in (("hold", "an import"), ("release",), ("discard", "--all", "--why", "a test", "--yes")):
        done = run(*words)
        assert (done.exit_code, done.stderr) == (0, ""), words
    # The level is that of one command: an application in this process logs as before.
    assert not logging.getLogger(operations.__name__).level


@pytest.mark.parametrize(
    "command", sorted(command.name or command.callback.__name__ for command in cli.registered_commands)
)
def test_help_of_each_command_has_an_example(command: str) -> None:
    assert re.search(rf"Examples?: {command}\b", run(command, "--help").stdout.replace("`", ""))
