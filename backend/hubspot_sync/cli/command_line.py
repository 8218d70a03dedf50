"""Where a command line comes in: its words become text, and whatever is wrong with it is told in one line."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import Any, TextIO

import typer
from typer.core import TyperGroup

from hubspot_sync.cli.terminal import fail


class CommandLine(TyperGroup):
    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Exits with 2 where Typer would print a box of several lines, which no script reads."""
        # Neither is there where a service was started without it.
        sys.stdout, sys.stderr = sys.stdout or _nowhere(), sys.stderr or _nowhere()
        for stream in (sys.stdout, sys.stderr):
            # What a terminal's encoding lacks is shown as an escape.
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        words = [_as_text(word) for word in (sys.argv[1:] if args is None else args)]
        try:
            code = super().main(words, prog_name, complete_var, False, windows_expand_args, **extra)
        except typer.TyperException as error:
            if not standalone_mode:
                raise
            # Without a word the help has been shown, and there is nothing more to say.
            if words:
                fail(error.format_message())
            sys.exit(error.exit_code)
        except typer.Abort:
            if not standalone_mode:
                raise
            fail("Aborted.")
            sys.exit(1)
        except OSError as error:
            if not standalone_mode:
                raise
            # The disk is full, say. What is left in the buffer would fail once more when Python ends.
            sys.stdout = _nowhere()
            fail(f"What was to be told could not be written: {error.strerror or error}.")
            sys.exit(1)
        if standalone_mode:
            sys.exit(code)
        return code


def _nowhere() -> TextIO:
    return open(os.devnull, "w")  # Until the process ends.


def _as_text(word: str) -> str:
    """Bytes that are no text in the terminal's encoding are taken for UTF-8; what is not even that becomes escapes."""
    try:
        return word.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return word.encode("utf-8", "backslashreplace").decode()
