"""`python -m demo.tether PARENT COMMAND…` becomes COMMAND, and is killed when the process PARENT dies.

A demo that is itself killed by SIGKILL can stop nothing, so Linux is asked to. Elsewhere the command just runs.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> None:
    if sys.platform == "linux":
        # The request outlives exec; it is lost only by programs that change their user.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit("The parent died before its child began.")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
