"""`python -m bench [SECTION…]`: measure, print a line a round, and write bench/RESULTS.md."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from bench import claims, drain, enqueue, memory, wakeup
from bench.figures import Count, Figure
from bench.ground import Ground, describe, server
from bench.live import section as live
from bench.results import save

SECTIONS: dict[str, Callable[[Ground], Sequence[Figure | Count]]] = {
    "enqueue": enqueue.measure,
    "drain": drain.measure,
    "claims": claims.measure,
    "wakeup": wakeup.measure,
    "memory": memory.measure,
    "live": live.measure,
}


def main(
    sections: Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(SECTIONS)}; all by default.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer rows and rounds, for development.")] = False,
) -> None:
    """Measure the outbox against the physical limit and its peers."""
    chosen = sections or list(SECTIONS)
    page = Path()
    if unknown := set(chosen) - set(SECTIONS):
        raise typer.BadParameter(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    # As the command `worker` does.
    gc.collect()
    gc.freeze()
    with server() as url:
        ground = Ground(url, is_quick=quick)
        for name in chosen:
            figures = SECTIONS[name](ground)
            page = save(name, figures, describe(ground), is_quick=quick)
            for it in figures:
                ground.say(f"{it.what}: {it.value:.2f}, demanded {it.demand or 'nothing'}: {it.verdict}")
        ground.say(f"Written to {page.resolve()}.")


if __name__ == "__main__":
    typer.run(main)
