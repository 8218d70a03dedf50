"""Whether the server is about to stop.

uvicorn waits for every open answer before it tells the application that it stops, so an answer that never ends by
itself has to look. Under another server it ends after a while, and the browser asks again.
"""

from __future__ import annotations

import signal
import sys
from types import MethodType


def server_is_stopping() -> bool:
    """True once uvicorn was told to stop; false under a server that cannot be asked."""
    if "uvicorn" not in sys.modules:
        return False
    import uvicorn  # noqa: PLC0415  # The application chooses its server.

    handler = signal.getsignal(signal.SIGTERM)
    if not isinstance(handler, MethodType) or not isinstance(handler.__self__, uvicorn.Server):
        return False
    return handler.__self__.should_exit
