"""`python -m bench.live.crowded_sandbox`: the sandbox with 100,000 contacts, in a process of its own.

It prints its URL, and then, for each line that it reads, how it has answered upserts: seconds and statuses.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from hubspot_sandbox import Account, Sandbox
from hubspot_sandbox.journal import RequestRecord

RATE_MAX, WINDOW_SECONDS = 190, 10
CONTACTS = 100_000


def _fill(account: Account) -> None:
    for n in range(CONTACTS):
        account.contacts.create({"email": f"someone-{n}@example.org"}, account.clock())


def _main() -> None:
    with Sandbox(seed=1, rate_max=RATE_MAX) as sandbox:
        sandbox.run(_fill)
        print(sandbox.url, flush=True)
        for _ in sys.stdin:
            print(json.dumps(_seen(sandbox.run(lambda account: account.journal.last()))), flush=True)


def _seen(requests: Sequence[RequestRecord]) -> dict[str, object]:
    upserts = [request for request in requests if request.path.endswith("/batch/upsert")]
    moments = [request.time for request in upserts]
    statuses = sorted({str(request.status) for request in upserts})
    return {"seconds": max(moments) - min(moments), "count": len(upserts), "statuses": statuses}


if __name__ == "__main__":
    _main()
