"""Where a command line comes in: its words become text, and whatever is wrong with it is told in one line."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from typing import Any

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
        if standalone_mode:
            sys.exit(code)
        return code


def _as_text(word: str) -> str:
    """Bytes that are no text in the terminal's encoding are taken for UTF-8; what is not even that becomes escapes."""
    try:
        return word.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return word.encode("utf-8", "backslashreplace").decode()
