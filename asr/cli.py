"""The ``asr`` command: parse, call one library function, print.

stdout carries results, stderr the log and progress. Exit 0: all done; 1: some items failed, named at the end; 2: the
user's mistake, in one line; 130: interrupted. Heavy imports happen inside the subcommands, so that ``asr --help``
answers at once.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

import typer

from asr.commands.console import give_up, print_result, say, say_warning, shown
from asr.errors import AsrError, os_reason
from asr.heartbeat import LineFormatter

#: subcommands in the order in which the help lists them, and the modules of ``asr.commands`` that they are in
_COMMANDS = {
    "recipes": "data",
    "prepare": "data",
    "shard": "data",
    "doctor": "doctor",
    "train": "training",
    "average": "training",
    "export": "training",
    "evaluate": "scoring",
    "transcribe": "speech",
    "listen": "listening",
    "serve": "serving",
    "align": "align",
    "score": "scoring",
    "compare": "scoring",
    "tune": "tuning",
    "info": "about",
}
#: those that have subcommands of their own
_GROUPS = ("lm", "bench")


def commands(words: Sequence[str] = ()) -> typer.Typer:
    """Return the command line with the subcommands that are among these words; with all, if none is.

    Each module takes some milliseconds to load, of which a short command has few.
    """
    app = typer.Typer(
        name="asr",
        help="End-to-end speech recognition with CTC.",
        context_settings={"help_option_names": ["-h", "--help"]},
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback(invoke_without_command=True)(_start)
    known = {*_COMMANDS, *_GROUPS}
    before = set(takewhile(lambda word: word not in known, words))
    asks_for_help = not before.isdisjoint(("-h", "--help"))
    wanted = known if asks_for_help else known.intersection(words) or known
    for name, module in _COMMANDS.items():
        if name in wanted:
            app.command(name)(getattr(import_module(f"asr.commands.{module}"), name))
    for name in _GROUPS:
        if name in wanted:
            app.add_typer(import_module(f"asr.commands.{name}").app, name=name)
    return app


def run() -> None:
    """The command's entry point: what goes wrong becomes one line on stderr and an exit code."""
    _set_up_libraries()
    if sys.stderr is None:  # closed by the caller; what is said there must not end up in stdout
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123
    if sys.stdout is None:
        say("asr: stdout is closed, but results go there; send it to a file or to /dev/null")
        sys.exit(2)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # File names can be of any bytes; a result must not be lost because one cannot be printed.
        sys.stdout.reconfigure(errors="backslashreplace")
    warnings.showwarning = say_warning
    code = _run()
    try:
        sys.stdout.flush()
    except OSError:
        give_up(sys.stdout)
        code = code or 2
    try:
        sys.stderr.flush()
    except OSError:  # Python 3.11.2 would exit with 120
        give_up(sys.stderr)
    sys.exit(code)


def _set_up_libraries() -> None:
    """Set what libraries read from the environment when they are loaded; the user's own values stay."""
    # numpy's own threads would only take the cores of ours, and half of the time that it takes to load.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

    # To look for plugins, pydantic reads what is known of every package that is installed.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

    # How long torch's threads spin before they sleep. For ever (the default) makes two-thread torch many times
    # slower as soon as another process wants a core; not at all makes each small product pay for waking them.
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")

    # Batches have many lengths. Blocks of GPU memory that grow leave no holes that are too short for the next one.
    if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:  # the older name
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")

    # Without work space of a fixed size, cuBLAS may sum in another order when two streams are in use, as cuDNN's
    # recurrent kernels use them.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def _run() -> int:
    try:
        code: int | None = commands(sys.argv[1:])(prog_name="asr", standalone_mode=False)
    except AsrError as error:
        say(f"asr: {error}")
        return 2
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except BrokenPipeError:  # from the help text; results go through print_result
        give_up(sys.stdout)
        return 1
    except OSError as error:
        where = "" if error.filename is None else f"{shown(error.filename)}: "
        say(f"asr: {where}{os_reason(error)}")
        give_up(sys.stdout)
        return 2
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == "torch":
            say("asr: this needs PyTorch, which is not installed: pip install asr-ctc")
            return 2
        # Typer's usage errors have had three homes so far (click, its own copy of click): known by what they can do.
        if not hasattr(error, "format_message"):
            say(traceback.format_exc().rstrip("\n"))  # a mistake of ours; it can quote a name or a text
            return 1
        say(_usage_line(error))
        return 2
    if code == 130:
        say("asr: interrupted")
    return code or 0


def _usage_line(error: Any) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "asr"
    message = shown(" ".join(error.format_message().split()).rstrip("."))
    return f"{command}: {message[:1].lower()}{message[1:]} ('{command} --help' shows what it takes)"


def _start(
    context: typer.Context,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
    stay_below: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            exists=True,
            file_okay=False,
            help="Manifests and tables may name audio below this folder only.",
        ),
    ] = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from asr import __version__

        print_result(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)
    if stay_below is not None:
        from asr.data import places

        context.with_resource(places.stay_below(stay_below))
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.raiseExceptions = False  # a log that cannot be written (disk full) says nothing, least of all a traceback
    logging.getLogger("asr").setLevel(logging.DEBUG if verbose else logging.INFO)
