"""``python -m asr``: the same as the ``asr`` command."""

from __future__ import annotations


def main() -> None:
    from asr.cli import run

    run()


if __name__ == "__main__":
    main()
