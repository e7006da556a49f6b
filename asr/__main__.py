"""``python -m asr``: the same as the ``asr`` command."""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> None:
    try:
        from asr.cli import run

        run()
    except KeyboardInterrupt:  # before the command could take it: it is still being imported
        sys.exit(130)


if __name__ == "__main__":
    # "python -m" looks for modules in the working folder first: a numpy.py that came with a corpus would be run
    if not sys.flags.safe_path and sys.path[0] in ("", str(Path.cwd())):
        del sys.path[0]
    main()
