"""The folder of a training run.

It holds ``config.yaml`` (resolved), ``environment.json``, ``data.json`` (the manifests and their checksums),
``tokenizer.json`` (a copy of the data folder's, if it has one), ``metrics.jsonl``, ``train.log``, ``checkpoints/`` and
``best/`` (a model folder).
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from asr import config as configs
from asr.config import RunConfig
from asr.data.tokenizer import Tokenizer
from asr.data.tokenizer_file import FILE as TOKENIZER_FILE
from asr.data.tokenizer_file import read_tokenizer
from asr.errors import CheckpointError, ConfigError, DataError, command, os_reason
from asr.files import held, json_text, open_regular, read_json, read_record, write_json, write_text
from asr.heartbeat import LineFormatter
from asr.training.data import Dropped
from asr.training.metrics import MetricsFile

log = logging.getLogger(__name__)

#: files that must not be in the folder of a new run: a run would lose them, or be taken for them
_FOREIGN = {
    "config.json": "a model",
    "model.safetensors": "a model",
    "prepared.json": "prepared data",
    "train.jsonl": "prepared data",
    "best": "models or checkpoints of an earlier run",
}
#: what a changed value of the environment means for the result
_MEANS = {
    "processes": "; the batches are the same ones, and the result up to rounding (with dropout: other masks)",
    "threads": "; the result is the same up to rounding",
    "precision": "; the result is not what it would have been, set train.precision to keep it",
}


class RunFolder:
    """Paths of a run, and what is written to them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.best = path / "best"
        self.config = path / "config.yaml"
        self.tokenizer = path / "tokenizer.json"
        self.data = path / "data.json"
        #: the command that continues the run
        self.resume_command = command("train", "--resume", path)
        self.metrics = MetricsFile(path / "metrics.jsonl", f"then: {self.resume_command}")
        self._tensorboard: Any = None

    def create(self, cfg: RunConfig, data: Path, tokenizer: Tokenizer | None = None) -> None:
        """Make the folder of a new run, with a copy of the tokenizer so that resuming needs no other; None: characters.

        Raises:
            ConfigError: it holds a run already, or other files that a run must not be mixed with, or cannot be written.
        """
        if self.config.exists():
            raise ConfigError(
                f"{self.path} holds a run already; choose another --out, or go on with: {self.resume_command}"
            )

        foreign = [kind for name, kind in _FOREIGN.items() if (self.path / name).exists()]
        if any(self.checkpoints.glob("step-*")):
            foreign.append(_FOREIGN["best"])
        if self.tokenizer.exists() and not self.data.exists():
            foreign.append("a tokenizer.json of its own")
        if foreign:
            raise ConfigError(f"{self.path} holds {foreign[0]}; choose another --out")

        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            write_json(self.data, data_record(data))
            self.tokenizer.unlink(missing_ok=True)
            if tokenizer is not None:
                write_json(self.tokenizer, tokenizer.to_json())
            write_text(self.config, configs.to_yaml(cfg))
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot write the run folder: {os_reason(error)}") from error

    def discard(self) -> None:
        """Undo ``create``: a run that cannot be trained must not block its folder."""
        for path in (self.config, self.data, self.path / "started.json", self.tokenizer):
            path.unlink(missing_ok=True)

    def write_config(self, cfg: RunConfig) -> None:
        """Write the config again, with the values found when the run started.

        Raises:
            CheckpointError: it cannot be written.
        """
        # In place, as the run's lock is on this very file. If it is cut short, the run has no steps yet.
        try:
            self.config.write_text(configs.to_yaml(cfg), encoding="utf-8")
        except OSError as error:
            raise CheckpointError(f"cannot write: {os_reason(error)}", self.config) from error

    def read_tokenizer(self) -> Tokenizer | None:
        """Read the tokenizer of the run; None: the characters of its training texts.

        Raises:
            CheckpointError: it is damaged.
        """
        return read_tokenizer(self.tokenizer) if self.tokenizer.exists() else None

    def open(self, data: Path | None) -> tuple[RunConfig, Path]:
        """Return config and data folder of an earlier run; ``data`` is where the data are now if they moved.

        Raises:
            CheckpointError: not a run folder.
            DataError: the data are gone, or a manifest has changed, so the run cannot be continued exactly.
        """
        if not self.config.is_file():
            raise CheckpointError(
                "not a run folder (no config.yaml); --resume takes the --out of an earlier run", self.path
            )

        cfg = configs.load(self.config)
        try:
            record = read_json(self.data)
            before = {split: record[split] for split in ("train", "dev")}
            recorded = Path(record["folder"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                "missing or damaged: nothing says which data this run was on; start a new run", self.data
            ) from error

        folder = data or recorded
        if data is None and not folder.is_dir():
            raise DataError(
                "the data of this run are no longer there; "
                f"where they are now: asr train --resume {self.path} --data DIR",
                folder,
            )

        now = data_record(folder)
        for split, checksum in before.items():
            if now[split] != checksum:
                raise DataError(
                    "has changed since the run began, so resuming would not continue it; restore it or start a new run",
                    folder / f"{split}.jsonl",
                )

        self._compare_tokenizer(folder / TOKENIZER_FILE)
        if data is not None and Path(now["folder"]) != recorded:
            log.info("the data are now in %s (the same manifests as in %s)", now["folder"], recorded)
            write_json(self.data, now)
        return cfg, folder

    def _compare_tokenizer(self, path: Path) -> None:
        with suppress(OSError, ValueError):  # unless both are there
            if read_json(self.tokenizer) != read_json(path):
                log.warning("%s has changed since the run began; the run keeps its own tokenizer", path)

    def write_environment(self, environment: dict[str, Any]) -> None:
        """Write ``environment.json`` at the first start; later, warn of what differs from it."""
        path = self.path / "environment.json"
        recorded = read_record(path)
        packages = recorded.get("packages")
        if not isinstance(packages, dict):
            if path.exists():
                log.warning("%s is damaged; it is written again", path)
            write_json(path, environment)
            return

        # each package's version by its own name
        now = environment | environment["packages"]
        before = recorded | packages
        for key in sorted({*before, *now} - {"packages", "dirty", "platform"}):
            if before.get(key) != now.get(key):
                log.warning(
                    f"resumed with another {key}: {now.get(key)}, before {before.get(key)}{_MEANS.get(key, '')}"
                )

    def write_dropped(self, dropped: Sequence[Dropped]) -> None:
        """Write ``dropped.jsonl``, every utterance that is left out with the reason; no file if there is none."""
        if dropped:
            write_text(self.path / "dropped.jsonl", "".join(json_text(vars(d), ascii=True) + "\n" for d in dropped))

    def cut_metrics(self, step: int, epoch: int) -> None:
        """Remove metrics of steps after ``step``, and of validations after ``epoch``: a resumed run makes them again.

        A checkpoint of an epoch's last step can be older than the validation that has the same step.
        """
        self.metrics.keep(lambda row: row["step"] <= step and (row["kind"] != "valid" or row["epoch"] <= epoch))

    def add_metrics(self, **values: Any) -> None:
        """Append a row of metrics, also to TensorBoard if it is installed.

        Raises:
            CheckpointError: it cannot be written; the checkpoints are kept.
        """
        self.metrics.add(**values)
        if self._tensorboard is not None:
            for name, value in values.items():
                if isinstance(value, int | float) and name not in ("step", "epoch"):
                    self._tensorboard.add_scalar(f"{values['kind']}/{name}", value, values["step"])

    def locked(self) -> AbstractContextManager[None]:
        """Lock the run for this process; the system unlocks it however the process ends.

        Raises:
            ConfigError: another process is training this run.
        """
        return held(self.config, f"{self.path}: another process is training this run; stop it first")

    @contextmanager
    def recording(self, step: int) -> Iterator[None]:
        """Copy the log to ``train.log`` while the block runs, and metrics to TensorBoard if it is installed."""
        handler = logging.FileHandler(self.path / "train.log", encoding="utf-8")
        formatter = LineFormatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
        formatter.converter = time.gmtime
        handler.setFormatter(formatter)
        library = logging.getLogger("asr")
        level = library.level
        if library.getEffectiveLevel() > logging.INFO:
            library.setLevel(logging.INFO)
        library.addHandler(handler)
        self._tensorboard = _summary_writer(self.path / "tensorboard", step)
        try:
            yield
        finally:
            library.removeHandler(handler)
            library.setLevel(level)
            # On a full disk closing fails too; the error that led here says more.
            with suppress(OSError):
                handler.close()
                if self._tensorboard is not None:
                    self._tensorboard.close()


def _summary_writer(folder: Path, step: int) -> Any:
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    # Steps that a resumed run does again replace those done before it was killed.
    return SummaryWriter(str(folder), purge_step=step + 1)


def data_record(folder: Path) -> dict[str, str]:
    """Return the path of a data folder and the checksums of its manifests.

    Raises:
        DataError: train.jsonl or dev.jsonl is missing.
    """
    record = {"folder": str(folder.resolve())}
    for split in ("train", "dev"):
        path = folder / f"{split}.jsonl"
        try:
            with open_regular(path) as file:
                digest = hashlib.sha256()
                while block := file.read(1 << 20):
                    digest.update(block)
            record[split] = digest.hexdigest()
        except OSError as error:
            raise DataError(
                f"cannot read: {os_reason(error)}; --data takes a folder with train.jsonl and dev.jsonl "
                "('asr prepare' writes them)",
                path,
            ) from error

    return record
