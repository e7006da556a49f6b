"""``python -m asr``: the same as the ``asr`` command."""

from __future__ import annotations

import sys


def main() -> None:
    try:
        from asr.cli import run

        run()
    except KeyboardInterrupt:  # before the command could take it: it is still being imported
        sys.exit(130)


if __name__ == "__main__":
    main()
