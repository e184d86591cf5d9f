"""Where the command starts, before anything heavy is imported.

Example:
    >>> from mbflow.__main__ import start
    >>> start.__doc__
    'Run the command line; Ctrl-C has its exit code from the first moment on.'
"""

import os
import signal
import sys


def _interrupted(*_: object) -> None:
    os.write(2, b"interrupted\n")
    os._exit(5)


def start() -> None:
    """Run the command line; Ctrl-C has its exit code from the first moment on."""
    # While modules are imported there is nothing to put in order; later, main sees to it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupted)
    from mbflow.cli import main

    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())


if __name__ == "__main__":
    start()
