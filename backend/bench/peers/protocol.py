"""A peer's process answers requests, one JSON line each. It runs in the peers' environment and imports none of ours."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

Answer = Callable[..., dict[str, Any]]


def serve(answers: dict[str, Answer]) -> None:
    """Answer until the other end closes."""
    for line in sys.stdin:
        request = json.loads(line)
        answer = answers[request.pop("do")](**request)
        print(json.dumps(answer), flush=True)
