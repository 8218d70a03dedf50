"""What the documents say is compared with what is there: targets, variables, statements, tests, files and links."""

from __future__ import annotations

import ast
import json
import os
import re
import tomllib
from functools import cache
from itertools import takewhile
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.cli import cli
from app.events import CATALOG
from app.models import OUTBOX
from app.services.hubspot import track_event
from app.settings import Settings
from sqlalchemy_outbox.claiming.scan import Scan
from sqlalchemy_outbox.lease import LEASE
from sqlalchemy_outbox.migrations import latest, steps
from sqlalchemy_outbox.model import State
from sqlalchemy_outbox.operating.rights import RIGHTS, Job
from sqlalchemy_outbox.operating.search import read_events
from tests.conftest import BACKEND

ROOT = BACKEND.parent
README = ROOT / "README.md"
DOCS = ROOT / "docs"
SETTINGS, COMMANDS, LOGS = DOCS / "settings.md", DOCS / "commands.md", DOCS / "logs.md"
GUARANTEES, UPGRADING = DOCS / "guarantees.md", DOCS / "upgrading.md"
DECISIONS = sorted((DOCS / "decisions").glob("*.md"))
DOCUMENTS = [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]
WRITTEN = [*DOCUMENTS, ROOT / ".env.example"]

ROOMS_OF_THE_OUTBOX = DOCS / "decisions" / "0023-the-outbox-has-rooms-and-says-what-is-public.md"
ROOMS = ("app", "hubspot_sync", "sqlalchemy_outbox")
README_WORDS_MAX = 1_200
# About a page.
DECISION_WORDS_MAX = 550

# What style forbids: words that praise, and pictures.
PRAISE = re.compile(
    r"robust|comprehensive|seamless|blazing|powerful|cutting-edge|world-class|production-ready|enterprise-grade"
    r"|battle-tested|state-of-the-art|effortless|leverag|best-in-class|elegant",
    re.IGNORECASE,
)
EMOJI = re.compile("[\U0001f000-\U0001faff\u2600-\u27bf\ufe0f]")

each_document = pytest.mark.parametrize("document", WRITTEN, ids=lambda it: str(it.relative_to(ROOT)))


def test_make_targets_that_the_documents_name_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for it in DOCUMENTS for name in re.findall(r"(?:`|^)make ([a-z]+)", it.read_text(), re.MULTILINE)}
    assert {"demo", "test"} <= named
    assert named <= targets


def test_readme_is_short_enough_to_be_read():
    assert len(README.read_text().split()) <= README_WORDS_MAX


def test_settings_page_and_example_name_every_variable_with_its_true_default():
    defaults = {name.upper(): _as_text(field.default) for name, field in Settings.model_fields.items()}
    assert sorted(_example()) == sorted(defaults.items())
    assert sorted(_settings_table()) == sorted((name, value or "empty") for name, value in defaults.items())


def test_example_sets_what_no_settings_set():
    assert Settings(_env_file=ROOT / ".env.example") == Settings(_env_file=None)


def test_every_variable_of_the_example_has_its_consequence_above_it():
    lines = (ROOT / ".env.example").read_text().splitlines()
    bare = [lines[i] for i in range(1, len(lines)) if "=" in lines[i] and not lines[i - 1].startswith("#")]
    assert [it for it in bare if not it.startswith("#")] == []


def test_statements_of_the_documents_run(engine):
    statements = _sql(COMMANDS)
    assert len(statements) >= 4
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def test_documented_statement_fails_an_event_that_is_claimed(engine):
    payload = {"user_id": "d1", "created_at": "2026-11-24T06:40:02Z"}
    with Session(engine) as db, db.begin():
        event_id = track_event(db, "driver_signed_up", payload)
    with engine.begin() as connection:
        assert Scan(OUTBOX).claim(connection, types=CATALOG.types, token="t", lease=LEASE, limit=1)
    [statement] = (it for it in _sql(COMMANDS) if it.startswith("UPDATE"))
    with engine.begin() as connection:
        assert connection.execute(text(re.sub(r"'[0-9-]{36}'", f"'{event_id}'", statement))).rowcount == 1
        [event] = read_events(connection, OUTBOX, [event_id])
    assert event.state is State.FAILED


def test_commands_that_the_documents_name_exist():
    commands = {it.name or it.callback.__name__ for it in cli.registered_commands if it.callback}
    named = {name for it in DOCUMENTS for name in re.findall(r"python -m app\.cli ([a-z]+)", it.read_text())}
    assert named == commands


def test_every_guarantee_names_tests_that_exist():
    guarantees = re.findall(r"^## (\d+)\. (.+)\n((?:(?!## ).*\n)*)", GUARANTEES.read_text(), re.MULTILINE)
    assert [int(number) for number, _, _ in guarantees] == list(range(1, 14))
    existing = _names_of_tests()
    for number, title, text_ in guarantees:
        proofs = re.findall(r"^- `(test_\w+)`$", text_, re.MULTILINE)
        assert proofs or "No test" in text_, f"{number} {title}"
        assert set(proofs) <= existing, f"{number} {title}"


def test_readme_gives_the_same_guarantees_each_with_a_proof_that_exists():
    pages = dict(re.findall(r"^## (\d+)\. (.+)$", GUARANTEES.read_text(), re.MULTILINE))
    given = re.findall(r"^(\d+)\. \*\*(.+?)\.\*\*((?:.*\n)(?: +.*\n)*)", _section(README, "Guarantees"), re.MULTILINE)
    assert {number: title for number, title, _ in given} == pages
    limits = re.findall(r"^- \*\*(.+?)\*\*((?:.*\n)(?: +.*\n)*)", _section(README, "Limits"), re.MULTILINE)
    assert len(limits) >= 6
    existing, rows = _names_of_tests(), _bench_rows()
    for title, text_ in [*((title, text_) for _, title, text_ in given), *limits]:
        tests = set(re.findall(r"`(test_\w+)`", text_))
        bench = set(re.findall(r"[Bb]ench row\s+`([^`]+)`", text_))
        assert tests or bench or "No test:" in text_ or title == "Out of scope", title
        assert tests <= existing, title
        assert bench <= rows, title


@each_document
def test_tests_that_a_document_names_exist(document):
    assert set(re.findall(r"`(test_\w+)`", document.read_text())) <= _names_of_tests()


def test_upgrade_page_names_every_migration_with_its_lock():
    revisions = sorted(path.name[:4] for path in (BACKEND / "alembic" / "versions").glob("[0-9]*.py"))
    rows = re.findall(r"^\| (\d{4}) \| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$", UPGRADING.read_text(), re.MULTILINE)
    assert [row[0] for row in rows] == revisions


def test_upgrade_page_names_every_step_and_the_guide_has_a_newcomer_take_them_all():
    section = _section(UPGRADING, "The outbox's steps")
    rows = re.findall(r"^\| (\d+) \| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$", section, re.MULTILINE)
    numbers = [str(step.number) for step in steps("postgresql")]
    assert [row[0] for row in rows] == numbers
    first = ", ".join(numbers[:-1])
    assert f"today {first} and {latest()};" in _section(DOCS / "application.md", "Migrate")


def test_page_of_rights_says_what_each_job_is_granted():
    """A table that is not among a job's rights is not on its line, and one that is has just these rights there."""
    lines = {
        Job.APPLICATION: "an application that enqueues",
        Job.WORKER: "a worker",
        Job.OPERATOR: "an operator, by command line or page",
    }
    section = _section(DOCS / "deploying.md", "Rights")
    for job, who in lines.items():
        [line] = re.findall(rf"^\| {who} \| (.+?) \|", section, re.MULTILINE)
        granted = {}
        for rights, tables in re.findall(r"`((?:[A-Z]+, )*[A-Z]+)` on ((?:[^`;]*`(?:outbox_events|_[a-z_]+)`)+)", line):
            for table in re.findall(r"`(outbox_events|_[a-z_]+)`", tables):
                granted[table.removeprefix("outbox_events")] = rights
        assert granted == RIGHTS[job], job


def test_decision_about_rooms_shows_the_layers_that_are_checked():
    contracts = tomllib.loads((BACKEND / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    [layers] = (contract["layers"] for contract in contracts if "rooms" in contract["name"])
    names = [name.strip().rpartition(".")[2] for layer in layers for name in layer.split("|")]
    [drawing] = re.findall(r"```\n(.+?)```", ROOMS_OF_THE_OUTBOX.read_text(), re.DOTALL)
    # What a room holds stands behind its name; modules share a line.
    lines = [[first, *takewhile(names.__contains__, rest)] for first, *rest in map(str.split, drawing.splitlines())]
    assert [name for line in lines for name in line] == names


def test_modules_and_folders_that_documents_name_in_passing_exist():
    sources = (*BACKEND.rglob("*.py"), *ROOT.glob("examples/*.py"), *DOCS.glob("site/*.py"))
    files = [str(path.relative_to(ROOT)) for path in sources]
    foreign = {"_preparing.py", "autogenerate/render.py"}
    for document in (*DOCUMENTS, BACKEND / "README.md", ROOT / "bench" / "measured.md"):
        words = re.findall(r"`([^`\n]+)`", document.read_text())
        modules = {word for word in words if re.fullmatch(r"[\w/.]+\.py", word)} - foreign
        assert {it for it in modules if not any(f"/{file}".endswith(f"/{it}") for file in files)} == set(), document
        folders = {word for word in words if re.fullmatch(r"(?:backend|hubspot_sync|sqlalchemy_outbox)/[\w/]+", word)}
        folders -= {"backend/dist"}  # `make package` makes it.
        assert {it for it in folders if not any((root / it).exists() for root in (ROOT, BACKEND))} == set(), document


def test_log_lines_that_the_document_lists_are_written_by_the_code_at_that_level():
    lines = re.findall(r"^\| `(.+?)` \| (\w+) \|", LOGS.read_text(), re.MULTILINE)
    assert len(lines) >= 13
    written = _log_lines()
    assert {level for _, level in lines} <= {"info", "warning", "error", "critical"}
    for line, level in lines:
        # What differs each time is `…` on the page and a field in the code.
        assert any(
            at_level in (level, "log") and (_fits(line, "…", template) or _fits(template, r"%\w", line))
            for at_level, template in written
        ), line


def test_decisions_are_numbered_without_gaps_and_have_their_parts():
    assert [it.name[:4] for it in DECISIONS] == [f"{n:04}" for n in range(1, len(DECISIONS) + 1)]
    for decision in DECISIONS:
        words = decision.read_text()
        assert words.startswith(f"# {decision.name[:4]} ")
        for part in ("Governs: [", "**Context.**", "**Decision.**", "**Consequences.**", "**Alternatives.**"):
            assert part in words, f"{decision.name} lacks {part}"
        assert "**Revisit when**" in words, decision.name
        assert len(words.split()) <= DECISION_WORDS_MAX, decision.name


@each_document
def test_links_lead_somewhere(document):
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text())
    missing = [it for it in targets if "://" not in it and not (document.parent / it).exists()]
    assert missing == []


@each_document
def test_documents_neither_praise_nor_decorate(document):
    assert PRAISE.findall(document.read_text()) == []
    assert EMOJI.findall(document.read_text()) == []


@each_document
def test_documents_hold_no_path_of_somebodys_machine(document):
    assert re.findall(r"(?<![\w.])/(?:home|root|work|tmp|Users|mnt)/\S*", document.read_text()) == []


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def _example() -> list[tuple[str, str]]:
    return re.findall(r"^([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE)


def _settings_table() -> list[tuple[str, str]]:
    rows = re.findall(r"^\| `([A-Z_]+)` \| (\S+) \| .+ \|$", _section(SETTINGS, "Variables"), re.MULTILINE)
    return [(name, default.strip("`")) for name, default in rows]


def _section(document: Path, title: str) -> str:
    _, _, rest = document.read_text().partition(f"\n## {title}\n")
    assert rest, f"{document.name} has no section {title}"
    return rest.partition("\n## ")[0]


def _sql(document: Path) -> list[str]:
    blocks = re.findall(r"```sql\n(.*?)```", document.read_text(), re.DOTALL)
    lines = (line for block in blocks for line in block.splitlines() if not line.startswith("--"))
    return [it.strip() for it in "\n".join(lines).split(";") if it.strip()]


def _log_lines() -> set[tuple[str, str]]:
    """Each line that the code logs, as its level and its template; the level `log` is chosen as it runs."""
    modules = (ast.parse(path.read_text()) for room in ROOMS for path in (BACKEND / room).rglob("*.py"))
    return {
        (node.func.attr, argument.value)
        for module in modules
        for node in ast.walk(module)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if node.func.attr in ("info", "warning", "error", "critical", "log")
        for argument in node.args[:2]
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    }


def _fits(pattern: str, gap: str, text_: str) -> bool:
    """Whether the text is the pattern, with anything in its gaps."""
    return re.fullmatch(".*".join(re.escape(part) for part in re.split(gap, pattern)), text_) is not None


def _bench_rows() -> set[str]:
    results = json.loads((ROOT / "bench" / "results.json").read_text())
    return {figure["what"] for section in results.values() for figure in section["figures"]}


@cache
def _names_of_tests() -> set[str]:
    modules = (ast.parse(path.read_text()) for path in (BACKEND / "tests").rglob("test_*.py"))
    functions = (node for module in modules for node in ast.walk(module))
    return {it.name for it in functions if isinstance(it, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_nothing_is_installed_without_a_hash() -> None:
    installs = [line for line in (ROOT / "Makefile").read_text().splitlines() if "pip install" in line]
    assert len(installs) >= 4
    assert [line for line in installs if "--require-hashes -r" not in line] == []


def test_every_finding_can_be_run():
    findings = list((ROOT / "findings").iterdir())
    assert findings
    assert [finding.name for finding in findings if finding.suffix != ".sh" or not os.access(finding, os.X_OK)] == []
