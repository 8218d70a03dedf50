"""results.json keeps what each section came to; RESULTS.md is written from it and from measured.md."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.figures import Count, Figure, middle_half

_FULL = Path(__file__).parents[2] / "bench"
# Git ignores it: what a quick run says is for whoever is changing something.
_QUICK = _FULL / "quick"
# What was measured once, for a decision, is written by hand.
_MEASURED = _FULL / "measured.md"
_ORDER = ("enqueue", "drain", "claims", "wakeup", "memory", "live")

_INTRODUCTION = """\
# Speed of the outbox

Written by `make bench` from [results.json](results.json); do not edit. Every ratio is ours over the other's in the same
round, one after the other on the same server; the table shows the median of the rounds and, in brackets, their middle
half. Absolute numbers are this machine's and say little; the ratios are what is demanded. *raw* is the least that can
be done: claim and settle by hand-written SQL in bare psycopg (or sqlite3), on the same table, in each subject's order
([raw.py](../backend/bench/raw.py)). Destinations answer at once and without HTTP, so that only the outbox is measured;
in *live* they are a HubSpot that answers at once over HTTP, and the rival is a bare client that sends it the same. What
the peers guarantee, and how they are run, is in [their folder](../backend/bench/peers/README.md).
"""


def save(section: str, figures: Sequence[Figure | Count], surroundings: Mapping[str, str], *, is_quick: bool) -> Path:
    """Replace one section's results, and write the page anew; the page's path."""
    folder = _QUICK if is_quick else _FULL
    file, page = folder / "results.json", folder / "RESULTS.md"
    results = json.loads(file.read_text()) if file.exists() else {}
    results[section] = {"surroundings": dict(surroundings), "figures": [_as_json(it) for it in figures]}
    ordered = {name: results[name] for name in _ORDER if name in results}
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n")
    page.write_text(render(ordered) + _MEASURED.read_text())
    return page


def _as_json(figure: Figure | Count) -> dict[str, Any]:
    common = {
        "what": figure.what,
        "value": round(figure.value, 4),
        "demanded": str(figure.demand),
        "verdict": figure.verdict,
        "note": figure.note,
    }
    if isinstance(figure, Count):
        return common
    return common | {
        "rival": figure.rival_name,
        "unit": figure.unit,
        "ours": [_rounded(it) for it in figure.ours],
        "theirs": [_rounded(it) for it in figure.rival],
        "ratios": [round(it, 4) for it in figure.ratios],
        "evidence": figure.evidence if figure.verdict == "short" else "",
    }


def render(results: Mapping[str, Any]) -> str:
    figures = [it for section in results.values() for it in section["figures"]]
    short = [it["what"] for it in figures if it["verdict"] == "short"]
    met = sum(it["verdict"] == "met" for it in figures)
    verdict = f"{met} figures are met, {len(short)} short" + (f": {'; '.join(short)}." if short else ".")
    return "\n".join([_INTRODUCTION, verdict, *(_section(name, it) for name, it in results.items())]) + "\n"


def _section(name: str, section: Mapping[str, Any]) -> str:
    lines = [f"\n## {name}\n"]
    lines += [f"- {what}: {said}" for what, said in section["surroundings"].items() if said]
    lines += ["", "| what | ours | against | ratio | demanded | verdict |", "|---|---:|---|---:|---|---|"]
    lines += [_row(it) for it in section["figures"]]
    lines += [f"\n**{it['what']}**: {it['note']}." for it in section["figures"] if it["note"]]
    lines += [
        f"\nWhy short, {it['what']}:\n\n{_block(it['evidence'])}" for it in section["figures"] if it.get("evidence")
    ]
    return "\n".join(lines)


def _row(figure: Mapping[str, Any]) -> str:
    if "ratios" not in figure:
        return f"| {figure['what']} | {figure['value']:g} | | | {figure['demanded']} | {figure['verdict']} |"
    low, high = middle_half(figure["ratios"])
    ours, theirs = (f"{median(figure[it]):,.5g} {figure['unit']}" for it in ("ours", "theirs"))
    ratio = f"{figure['value']:.2f} ({low:.2f}…{high:.2f})"
    return (
        f"| {figure['what']} | {ours} | {figure['rival']}: {theirs} | {ratio} | {figure['demanded']} "
        f"| {figure['verdict']} |"
    )


def _block(evidence: str) -> str:
    return f"```\n{evidence}\n```" if "\n" in evidence else evidence


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
