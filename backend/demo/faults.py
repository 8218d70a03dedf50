"""What goes wrong during the demo, and when: at shares of the script, so that every run meets the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from demo.play import Tally
from demo.report import Report
from demo.sandbox import Fault
from demo.stage import Stage


@dataclass(frozen=True, slots=True)
class Kill:
    """The application is ended by SIGKILL and started again."""


@dataclass(frozen=True, slots=True)
class Mishap:
    """`after` is the share of the script's actions that are done when it happens."""

    after: float
    what: Fault | Kill
    words: str


# The kill comes early, because what the dead worker had claimed is free again only when its lease of 20 s ends; the
# outage is last, because every failure in a row makes the wait for the next probe longer. That is why each waits until
# the one before is over.
SCHEDULE = (
    Mishap(0.08, Kill(), "The application is killed by SIGKILL, and started again."),
    Mishap(0.20, Fault("reset_after_applying", requests=2), "HubSpot applies two requests and resets the connection."),
    Mishap(0.30, Fault("throttle", requests=2), "HubSpot answers 429 in a burst."),
    Mishap(0.38, Fault("partial_results", requests=2), "HubSpot leaves an input out of its answer, twice."),
    Mishap(0.45, Fault("bad_gateway", requests=3), "HubSpot answers 502 in a burst."),
    Mishap(0.52, Fault("input_lost_race", requests=2), "Two new contacts are created by someone else at that moment."),
    Mishap(0.64, Fault("conflict", requests=1), "HubSpot refuses a whole request with 409 and says no reason."),
    Mishap(0.70, Fault("down", seconds=3), "HubSpot is down for 3 s."),
)


async def carry_out(schedule: Sequence[Mishap], stage: Stage, tally: Tally, report: Report) -> None:
    """Let each mishap happen when its share of the script is done and HubSpot has recovered from the one before."""
    for mishap in schedule:
        await tally.until(mishap.after)
        await stage.until_recovered()
        report.say(mishap.words, "yellow")
        match mishap.what:
            case Kill():
                await stage.kill_application()
                await stage.start_application()
            case Fault():
                await stage.account.add_fault(mishap.what)
