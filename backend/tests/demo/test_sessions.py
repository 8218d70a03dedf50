"""A CSV export of charging sessions becomes a script, or a message that says where it is wrong."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from demo.script import Action, Charge, InstallPass, Redeem, Script, SignUp
from demo.sessions import UnreadableSessions, read_sessions, write_script

HEADER = "sessionId,kwhTotal,dollars,created,ended,platform,distance,userId,stationId,locationId"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "sessions.csv"


def line(
    session: str = "1", user: str = "u1", ended: str = "0014-11-18 17:11:04", kwh: str = "7.78", platform: str = "ios"
) -> str:
    return f"{session},{kwh},0,0014-11-18 15:40:26,{ended},{platform},NA,{user},582873,461655"


def script_of(file: Path, *lines: str) -> Script:
    file.write_text("\n".join((HEADER, *lines)) + "\n")
    return write_script(read_sessions(file), "sessions")


def actions_of(script: Script, number: int) -> list[Action]:
    return [action for part in script.parts if part.driver.number == number for action in part.actions]


def objection_to(file: Path, *lines: str) -> str:
    with pytest.raises(UnreadableSessions) as raised:
        script_of(file, *lines)
    return str(raised.value)


def test_the_year_14_is_2014_and_times_are_taken_as_utc(file: Path) -> None:
    script_of(file, line())

    (session,) = read_sessions(file)
    assert session.ended_at == datetime(2014, 11, 18, 17, 11, 4, tzinfo=UTC)
    assert session.energy_kwh == Decimal("7.78")


def test_every_driver_signs_up_before_the_first_session(file: Path) -> None:
    script = script_of(file, line("1", "u1"), line("2", "u2", platform="web"), line("3", "u3", platform="android"))

    arrivals, charging = script.scenes
    assert [part.actions for part in arrivals] == [
        (SignUp(), InstallPass("apple")),
        (SignUp(),),
        (SignUp(), InstallPass("google")),
    ]
    assert all(isinstance(action, Charge) for part in charging for action in part.actions)
    assert [part.driver.channel for part in arrivals] == ["email", "email", "phone"]


def test_a_driver_s_sessions_are_played_in_the_order_of_their_ends(file: Path) -> None:
    script = script_of(
        file, line("late", ended="0015-01-02 10:00:00"), line("early", ended="0014-12-31 10:00:00", kwh="1")
    )

    assert [it.session_id for it in actions_of(script, 1) if isinstance(it, Charge)] == ["early", "late"]


def test_a_session_of_0_kwh_is_left_out_and_one_worth_0_nova_raises_no_event(file: Path) -> None:
    script = script_of(file, line("1", kwh="0"), line("2", kwh="0.04"), line("3", kwh="0.05"))

    assert [it.nova for it in actions_of(script, 1) if isinstance(it, Charge)] == [0, 1]
    assert script.event_types()["nova_earned"] == 1


def test_200_nova_are_redeemed_at_the_session_s_location_whenever_the_balance_reaches_them(file: Path) -> None:
    script = script_of(
        file,
        line("1", kwh="19.94", ended="0014-01-01 00:00:00"),
        line("2", kwh="20.06", ended="0014-01-02 00:00:00"),
    )

    assert [it for it in actions_of(script, 1) if isinstance(it, Redeem)] == [
        Redeem("2-1", "cafe-461655", 200),
        Redeem("2-2", "cafe-461655", 200),
    ]
    assert script.event_types()["first_redemption_completed"] == 1


@pytest.mark.parametrize(
    ("bad_line", "column", "value"),
    [
        (line(kwh="much"), "kwhTotal", "'much'"),
        (line(kwh="-1"), "kwhTotal", "'-1'"),
        (line(kwh="NaN"), "kwhTotal", "'NaN'"),
        (line(ended="yesterday"), "ended", "'yesterday'"),
        (line(ended="0200-01-01 00:00:00"), "ended", "'0200-01-01 00:00:00'"),
        (line(platform="tram"), "platform", "'tram'"),
        (line(user=""), "userId", "''"),
        ("1,7.78,0", "userId", "ends before"),
    ],
)
def test_a_bad_line_is_named_with_its_column_and_value(file: Path, bad_line: str, column: str, value: str) -> None:
    objection = objection_to(file, line("0"), bad_line)

    assert f"sessions.csv, line 3, column {column}: " in objection or "ends before" in objection
    assert value in objection


def test_all_bad_lines_are_named_up_to_ten(file: Path) -> None:
    objection = objection_to(file, *(line(str(number), kwh="x") for number in range(12)))

    assert [it.split(",")[1] for it in objection.splitlines()[:10]] == [f" line {number}" for number in range(2, 12)]
    assert objection.splitlines()[10] == "… and 2 more"


def test_a_session_id_that_stands_twice_is_refused(file: Path) -> None:
    assert "line 3, column sessionId: '1' stands on line 2 already" in objection_to(file, line("1"), line("1"))


def test_a_missing_column_is_named(file: Path) -> None:
    file.write_text("sessionId,userId,ended,kwhTotal\n")

    with pytest.raises(UnreadableSessions, match="line 1: the header lacks platform, locationId"):
        read_sessions(file)


@pytest.mark.parametrize("content", [b"", HEADER.encode() + b"\n", b"\xff\xfe"])
def test_a_file_without_sessions_is_refused(file: Path, content: bytes) -> None:
    file.write_bytes(content)

    with pytest.raises(UnreadableSessions, match=r"sessions\.csv"):
        read_sessions(file)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableSessions, match=r"nowhere\.csv"):
        read_sessions(tmp_path / "nowhere.csv")
