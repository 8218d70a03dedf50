"""What ends the demo with exit code 1 and a message, and no traceback."""

from __future__ import annotations


class DemoFailed(Exception):
    """Its message says what happened and, where there is one, the remedy."""
