"""``python -m asr``: the same as the ``asr`` command."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path


def main() -> None:
    # What a start loads stays: to look through it for garbage, again and again, takes a twentieth of a short command.
    gc.set_threshold(20_000, 50, 50)
    try:
        from asr.cli import run

        run()
    except KeyboardInterrupt:  # before the command could take it: it is still being imported
        sys.exit(130)
    except SystemExit as end:
        # All is written. To take down the interpreter and its libraries takes a tenth of a short command; torch's may
        # have processes and files of their own to look after.
        if "torch" not in sys.modules and isinstance(end.code, int):
            os._exit(end.code)
        raise


if __name__ == "__main__":
    # "python -m" looks for modules in the working folder first: a numpy.py that came with a corpus would be run
    if not sys.flags.safe_path and sys.path[0] in ("", str(Path.cwd())):
        del sys.path[0]
    main()
