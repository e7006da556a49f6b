"""``python -m tests.fuzz.many CALLS.json RESULTS.json``: call the ``asr`` command many times in one process.

CALLS.json is a list of lists of arguments. RESULTS.json gets a list of ``{"code", "out", "err", "seconds"}``, one for
each call; a call that hangs ends the process with the traceback of its place in stderr.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any


def main() -> None:
    calls, results = (Path(name) for name in sys.argv[1:3])
    stderr = os.fdopen(os.dup(2), "w")
    done: list[dict[str, Any]] = []
    for arguments in json.loads(calls.read_text(encoding="utf-8", errors="surrogateescape")):
        faulthandler.dump_traceback_later(120, exit=True, file=stderr)
        done.append(_call([os.fsdecode(os.fsencode(text)) for text in arguments]))
        faulthandler.cancel_dump_traceback_later()
        results.write_text(json.dumps(done), encoding="utf-8")


def _call(arguments: list[str]) -> dict[str, Any]:
    """Run the command with its streams, and those of the libraries below, into files."""
    from asr.cli import run

    logging.getLogger().handlers[:] = []
    sys.argv = ["asr", *arguments]
    kept = [os.dup(1), os.dup(2)]
    code: Any = None
    begun = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        try:
            run()
        except SystemExit as end:
            code = end.code
        except BaseException:
            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            for place, descriptor in enumerate(kept, start=1):
                os.dup2(descriptor, place)
                os.close(descriptor)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "surrogateescape"))
    return {"code": code, "out": texts[0], "err": texts[1], "seconds": time.monotonic() - begun}


if __name__ == "__main__":
    main()
