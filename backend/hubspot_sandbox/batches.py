"""What all batches share: their size, their answer, and how HubSpot names what failed."""

from collections.abc import Iterable, Sequence

from hubspot_sandbox import errors
from hubspot_sandbox.account import Account
from hubspot_sandbox.wire import Answer, JsonObject, iso

BATCH_INPUTS_MAX = 100


def batch_answer(
    account: Account, started: float, status: int, results: list[JsonObject], failures: list[JsonObject]
) -> Answer:
    """`status` on full success, without an `errors` key; 207 when some inputs failed. Results come in any order."""
    account.random.shuffle(results)
    body: JsonObject = {
        "status": "COMPLETE",
        "results": results,
        "requestedAt": iso(started),
        "startedAt": iso(started),
        "completedAt": iso(account.clock()),
    }
    if failures:
        body |= {"numErrors": len(failures), "errors": failures}
    return Answer(207 if failures else status, body)


def check_size(inputs: Sequence[object]) -> None:
    if not 1 <= len(inputs) <= BATCH_INPUTS_MAX:
        raise errors.batch_size(len(inputs), BATCH_INPUTS_MAX)


def duplicates(values: Iterable[str]) -> list[str]:
    """Values that occur more than once, each once, in order of their second occurrence."""
    seen: set[str] = set()
    repeated: dict[str, None] = {}
    for value in values:
        if value in seen:
            repeated[value] = None
        seen.add(value)
    return list(repeated)


def could_not_get(ids: list[str]) -> JsonObject:
    """One entry for all that a batch read or update did not find."""
    return {
        "status": "error",
        "category": "OBJECT_NOT_FOUND",
        "message": "Could not get some CONTACT objects, they may be deleted or not exist. Check that ids are valid.",
        "context": {"ids": ids},
    }
