"""Run targets on damaged files, each input within limits of time and memory, and say what went wrong.

A target runs in a process of its own, forked from one that has imported what all of them need. Only that process can
crash or hang: it is ended, its input is named, and another one goes on behind it.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import itertools
import json
import logging
import mmap
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from asr.sound import ffmpeg
from tests.fuzz.mutate import choose, damaged
from tests.fuzz.seeds import Seed
from tests.fuzz.targets import Target

#: of each input. Memory: what an input may take beyond the process. RLIMIT_DATA counts heap and private writable maps;
#: RLIMIT_AS would count the address space that torch reserves and the files that are mapped, too
LONGEST_S = 20.0
_LONGEST_START_S = 900.0  # of the valid files, for which kernels may have to be compiled
MOST_BYTES = 2 << 30
#: more than this over the valid files' memory is a failure
MOST_OVER_MB = 500
#: a message is one line for a person
LONGEST_MESSAGE = 4000
#: characters of a failure's report
_SHOWN = 6000


@dataclass
class Failure:
    """An input that a parser did not take as it should. ``number`` -1: the valid files."""

    target: str
    number: int
    what: str
    details: str
    seconds: float = 0.0


@dataclass
class Report:
    """What became of a target's inputs. ``peak_mb``: memory over that of the valid files."""

    target: str
    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    peak_mb: float = 0.0
    slowest_s: float = 0.0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def files_of(target: Target, seeds: list[Seed], number: int) -> dict[str, bytes]:
    """Return the files of an input: those of a seed, one or two of them damaged."""
    rng = random.Random(f"{target.name} {number}")
    seed = rng.choice(seeds)
    files = dict(seed.files)
    for name in choose(seed.damaged, rng):
        others = [other for other in seeds if name in other.files]
        files[name] = damaged(name, files[name], rng.choice(others).files[name], rng)
    return files


def run_target(
    target: Target, folder: Path, seconds: float, first: int = 0, most: int | None = None
) -> Iterator[Report]:
    """Fuzz a target for some seconds; yield its report now and then, and at last once more.

    Args:
        folder: gets the inputs that fail, each as a folder ``TARGET-NUMBER`` (with its ``why.txt``).
        most: stop after so many inputs.
    """
    report = Report(target.name)
    begun = time.monotonic()
    last = None if most is None else first + most
    with tempfile.TemporaryDirectory(prefix="asr-fuzz-") as place:
        seeds = _built(target, Path(place), report)
        begun = time.monotonic()
        is_over = not seeds
        while not is_over:
            worker = _Worker(target, seeds, Path(place), begun + seconds, first, last)
            yield from _watched(worker, report, begun)
            is_lost = worker.number() < 0  # the valid files themselves are not taken
            if not worker.is_done and not is_lost:
                report.inputs += 1
            first = worker.number() + 1
            is_over = worker.is_done or is_lost or first == last or time.monotonic() > begun + seconds

        for failure in report.failures:
            _keep(target, seeds, failure, folder)
    report.seconds = time.monotonic() - begun
    yield report


def _built(target: Target, work: Path, report: Report) -> list[Seed]:
    scratch = work / "seeds"
    scratch.mkdir()
    try:
        return target.build(scratch)
    except Exception:
        report.failures.append(Failure(target.name, -1, "the valid files cannot be made", traceback.format_exc()))
        return []
    finally:
        shutil.rmtree(scratch)


def _keep(target: Target, seeds: list[Seed], failure: Failure, folder: Path) -> None:
    """Write the input of a failure where a person can look at it."""
    place = folder / f"{target.name}-{failure.number}"
    shutil.rmtree(place, ignore_errors=True)
    if failure.number >= 0:
        _write(files_of(target, seeds, failure.number), place)
    place.mkdir(parents=True, exist_ok=True)
    (place / "why.txt").write_text(f"{failure.what}\n\n{failure.details}\n", encoding="utf-8")


def _write(files: dict[str, bytes], folder: Path) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


# --- the process that watches -----------------------------------------------------------------------------------------


class _Counts:
    """What a worker has done so far, in memory that its parent shares: it is known whatever becomes of the worker."""

    _NAMES = ("number", "inputs", "accepted", "refused", "slowest_s", "peak_mb")

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8 * len(self._NAMES))
        self.set(number=-1)

    def get(self, name: str) -> float:
        (value,) = struct.unpack_from("d", self._memory, 8 * self._NAMES.index(name))
        return float(value)

    def set(self, **values: float) -> None:
        for name, value in values.items():
            struct.pack_into("d", self._memory, 8 * self._NAMES.index(name), value)


class _Worker:
    """A forked process that runs the inputs from ``first`` on until a time, and what is known of it."""

    def __init__(
        self, target: Target, seeds: list[Seed], work: Path, until: float, first: int, last: int | None
    ) -> None:
        self.log = work / "log"
        self.counts = _Counts()
        self.is_done = False
        self._results, results = os.pipe()
        self._said = b""
        self._number = -1
        self._began_at = time.monotonic()
        sys.stdout.flush()
        self.pid = os.fork()
        if not self.pid:
            _in_child(_Child(target, seeds, work, self.counts, results), self.log, until, first, last)
        os.close(results)
        os.set_blocking(self._results, False)

    def number(self) -> int:
        """Return the number of the input that runs, or ran last; -1 while the valid files are run."""
        return int(self.counts.get("number"))

    def seconds(self) -> float:
        """Return for how long the present input has run."""
        if self.number() != self._number:
            self._number, self._began_at = self.number(), time.monotonic()
        return time.monotonic() - self._began_at

    def messages(self) -> list[dict[str, Any]]:
        """Return what the process has sent since the last call."""
        with contextlib.suppress(BlockingIOError):
            while block := os.read(self._results, 1 << 16):
                self._said += block
        *whole, self._said = self._said.split(b"\n")
        return [json.loads(line) for line in whole]

    def close(self) -> None:
        os.close(self._results)


def _watched(worker: _Worker, report: Report, begun: float) -> Iterator[Report]:
    """Wait for a worker's end; take its counts and messages into the report, and its death as a failure."""
    before = replace(report)
    status: int | None = None
    while status is None:
        pid, code = os.waitpid(worker.pid, os.WNOHANG)
        if pid:
            status = os.waitstatus_to_exitcode(code)
        elif worker.seconds() > (_LONGEST_START_S if worker.number() < 0 else 2 * LONGEST_S):
            os.kill(worker.pid, signal.SIGKILL)  # faulthandler should have ended it

        for message in worker.messages():
            if "failure" in message:
                report.failures.append(Failure(report.target, **message["failure"]))
            worker.is_done = worker.is_done or "done" in message
        for name in ("inputs", "accepted", "refused"):
            setattr(report, name, getattr(before, name) + int(worker.counts.get(name)))
        for name in ("slowest_s", "peak_mb"):
            setattr(report, name, max(getattr(before, name), worker.counts.get(name)))
        report.seconds = time.monotonic() - begun
        yield report
        time.sleep(0.02)

    worker.close()
    if not worker.is_done:
        text = worker.log.read_text("utf-8", "replace") if worker.log.exists() else ""
        what = "hangs" if "Timeout (" in text else f"ends the process ({_named(status)})"
        shown = text if len(text) <= 2 * _SHOWN else f"{text[:_SHOWN]}\n…\n{text[-_SHOWN:]}"
        report.failures.append(Failure(report.target, worker.number(), what, shown, worker.seconds()))


def _named(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"exit {status}"


# --- the process that runs the inputs ---------------------------------------------------------------------------------


def _in_child(child: _Child, log: Path, until: float, first: int, last: int | None) -> NoReturn:
    code = 1
    try:
        opened = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, 1)
        os.dup2(opened, 2)
        sys.stdout = sys.stderr = os.fdopen(2, "w", closefd=False)
        faulthandler.enable(2)
        logging.disable(logging.CRITICAL)
        child.settle()
        if child.run_valid():
            child.run(until, first, last)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


class _Child:
    """Run inputs one after the other, each in a fresh folder, and report what is not as it should be."""

    def __init__(self, target: Target, seeds: list[Seed], work: Path, counts: _Counts, results: int) -> None:
        self.target = target
        self.seeds = seeds
        self.work = work
        self.counts = counts
        self.results = results
        self.case = work / "case"
        self.temporary = work / "tmp"
        self.clean_mb = 0.0
        self.touched: list[str] = []
        self._is_watching = False
        # clear_refs: training forgets its peak of memory, too
        self._allowed = [str(self.case), str(self.temporary), os.devnull, f"/proc/{os.getpid()}/clear_refs", *_caches()]

    def settle(self) -> None:
        """Make places of this process's own for all that a program may write, and watch what it touches beside them."""
        home, here = self.work / "home", self.work / "here"
        for folder in (self.temporary, home, here):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        tempfile.tempdir = str(self.temporary)
        os.environ |= {"TMPDIR": str(self.temporary), "HOME": str(home), "XDG_CACHE_HOME": str(home)}
        os.chdir(here)
        if self.target.program != "ffmpeg":
            ffmpeg.available = lambda: None  # else it is asked about whatever libsndfile refuses, which takes a second
        sys.addaudithook(self._audit)

    def run_valid(self) -> bool:
        """Run the valid files twice, which loads what is loaded late; their memory is what others are compared with."""
        for seed in [*self.seeds, *self.seeds]:
            shutil.rmtree(self.case, ignore_errors=True)
            _write(seed.files, self.case)
            try:
                self.target.call(self.case)
            except Exception:
                self._send(failure={"number": -1, "what": "refuses its valid files", "details": traceback.format_exc()})
                self._send(done=True)
                return False
        gc.collect()
        self.clean_mb = _peak_mb()
        _forget_peak()
        data = _status_kb("VmData:") << 10
        resource.setrlimit(resource.RLIMIT_DATA, (data + MOST_BYTES, resource.RLIM_INFINITY))
        return True

    def run(self, until: float, first: int, last: int | None) -> None:
        """Run inputs until the time is over, or the last one; at least one."""
        counts = {"inputs": 0, "accepted": 0, "refused": 0}
        slowest_s = peak_mb = 0.0
        for number in itertools.count(first):
            verdict, spent_s, over_mb = self._one(number)
            counts["inputs"] += 1
            if verdict:
                counts[verdict] += 1
            slowest_s, peak_mb = max(slowest_s, spent_s), max(peak_mb, over_mb)
            self.counts.set(**counts, slowest_s=slowest_s, peak_mb=peak_mb)
            if time.monotonic() > until or number + 1 == last:
                break
        self._send(done=True)

    def _one(self, number: int) -> tuple[str, float, float]:
        """Run an input; return whether it was accepted or refused (empty: neither), its seconds and its memory."""
        self.counts.set(number=number)
        shutil.rmtree(self.case, ignore_errors=True)
        files = files_of(self.target, self.seeds, number)
        _write(files, self.case)
        if _peak_mb() > self.clean_mb + MOST_OVER_MB / 5:  # of making the files
            _release()
            _forget_peak()
        faulthandler.dump_traceback_later(LONGEST_S, exit=True, file=2)
        begun = time.monotonic()
        verdict = what = details = ""
        self._is_watching = True
        try:
            self.target.call(self.case)
            verdict = "accepted"
        except BaseException as error:
            verdict, what, details = _judged(error)
        finally:
            self._is_watching = False
            faulthandler.cancel_dump_traceback_later()

        spent_s = time.monotonic() - begun
        over_mb = _peak_mb() - self.clean_mb
        if over_mb > MOST_OVER_MB:
            what = what or f"takes {over_mb:.0f} MB more than valid files"
            _release()
            _forget_peak()
        if self.touched:
            what, details = what or "touches what is not its own", "\n".join(self.touched[:20]) + "\n" + details
            self.touched.clear()
        if left := [path.name for path in self.temporary.iterdir()]:
            what, details = what or "leaves temporary files", " ".join(left[:20]) + "\n" + details
            shutil.rmtree(self.temporary)
            self.temporary.mkdir()
        if what:
            verdict = ""
            self._send(failure={"number": number, "what": what, "details": details[-_SHOWN:], "seconds": spent_s})
        return verdict, spent_s, over_mb

    def _send(self, **message: Any) -> None:
        line = json.dumps(message).encode() + b"\n"
        while line:
            line = line[os.write(self.results, line) :]

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        """Note what a parser does beside its own folder, and programs that it starts."""
        if not self._is_watching or event not in _WATCHED:
            return
        for name in _written(event, args):
            try:
                text = os.path.realpath(os.fsdecode(name))
            except (TypeError, ValueError):
                continue  # no name that a file can have: the call fails by itself
            if not any(text == place or text.startswith(place + "/") for place in self._allowed):
                self.touched.append(f"{event} {text}")
        if event in _FORBIDDEN:
            self.touched.append(f"{event} {str(args)[:200]}")
        if event == "subprocess.Popen" and Path(str(args[0])).name not in ("ffmpeg", "git"):
            self.touched.append(f"{event} {str(args)[:200]}")


#: events of Python's audit hooks that run code; and those that write, with the places of the names
_FORBIDDEN = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.startfile",
    "pickle.find_class",
    "marshal.load",
    "webbrowser.open",
)
_WRITES = {
    "os.mkdir": (0,),
    "os.remove": (0,),
    "os.rmdir": (0,),
    "os.rename": (0, 1),
    "os.link": (1,),
    "os.symlink": (1,),
    "os.truncate": (0,),
    "os.mkfifo": (0,),
    "shutil.rmtree": (0,),
}
_WATCHED = frozenset({"open", "subprocess.Popen", *_FORBIDDEN, *_WRITES})


def _written(event: str, args: tuple[Any, ...]) -> list[Any]:
    """Return the names that an event writes to; files that are already open have numbers, and were judged then."""
    if event == "open":
        name, _, flags = args
        names = [name] if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) else []
    else:
        if any(isinstance(arg, int) and arg >= 0 for arg in args[2 if event == "os.mkdir" else 1 :]):
            return []  # relative to an open folder
        names = [args[i] for i in _WRITES.get(event, ())]
    return [name for name in names if isinstance(name, str | bytes | os.PathLike)]


def _caches() -> list[str]:
    """Return where numba keeps compiled code."""
    import asr

    own = os.environ.get("NUMBA_CACHE_DIR", "")
    return [str(Path(asr.__file__).parent), *([os.path.realpath(own)] if own else [])]


def _judged(error: BaseException) -> tuple[str, str, str]:
    """Return verdict, what is wrong, and the details of what came out of a parser."""
    from asr.errors import AsrError

    if isinstance(error, AsrError):
        line = str(error)
        if len(line) > LONGEST_MESSAGE:
            return "", f"a message of {len(line):,} characters", line[:300] + "\n" + traceback.format_exc()[-2000:]
        if not line.isprintable():
            return "", "a message with control characters", repr(line)[:1000]
        return "refused", "", ""
    last = traceback.extract_tb(error.__traceback__)[-1]
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if "/asr/" in frame.filename] or [last]
    place = f"{own[-1].filename.rpartition('/asr/')[2]}:{own[-1].lineno}"
    message = str(error).splitlines()[0][:150] if str(error) else ""
    details = "".join(traceback.format_exception(error))
    return "", f"{type(error).__name__} in {place}: {message}", details


def _status_kb(field_: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field_):
            return int(line.split()[1])
    return 0


def _peak_mb() -> float:
    """Return the largest memory since ``_forget_peak``, of this process or of a program that it started."""
    programs_kb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return max(_status_kb("VmHWM:"), programs_kb) / 1024


def _forget_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _release() -> None:
    """Give freed memory back to the system, so that the next input is not blamed for it."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
