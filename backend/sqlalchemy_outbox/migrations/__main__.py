"""`python -m sqlalchemy_outbox.migrations postgresql 1`: a step's SQL on stdout, for `psql -1 -f -` or a DBA."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from sqlalchemy_outbox.migrations.steps import DIALECTS, Direction, steps


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m sqlalchemy_outbox.migrations", description=__doc__)
    parser.add_argument("dialect", choices=DIALECTS)
    parser.add_argument("step", type=int, nargs="?", help="its number; without one, the steps are listed")
    parser.add_argument("--down", action="store_true", help="the way back")
    parser.add_argument("--name", default="outbox_events", help="the outbox's; outbox_events unless given")
    parser.add_argument("--schema", help="the schema of its tables")
    given = parser.parse_args(arguments)
    found = steps(given.dialect)
    if given.step is None:
        sys.stdout.writelines(f"{step.number}  {step.title}  {step.price}\n" for step in found)
        return
    chosen = [step for step in found if step.number == given.step]
    if not chosen:
        parser.error(f"there is no step {given.step}; the newest is {found[-1].number}")
    statements = chosen[0].statements(Direction.DOWN if given.down else Direction.UP, given.name, given.schema)
    sys.stdout.writelines(f"{statement};\n" for statement in statements)


if __name__ == "__main__":
    main()
