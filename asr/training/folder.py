"""The folder of a training run: its config, log, metrics and progress; what is written where.

``config.yaml`` (resolved), ``environment.json``, ``data.json`` (which manifests, with their checksums),
``tokenizer.json`` (a copy of the data folder's, where it has one),
``metrics.jsonl``, ``train.log``, ``checkpoints/``, ``best/`` (a model folder).
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from asr import config as configs
from asr.config import RunConfig
from asr.data.tokenizer import FILE as TOKENIZER_FILE
from asr.data.tokenizer import Tokenizer, read_tokenizer
from asr.errors import CheckpointError, ConfigError, DataError, command, os_reason
from asr.files import held, open_atomic, write_json, write_text
from asr.training.data import Dropped

log = logging.getLogger(__name__)


class RunFolder:
    """Paths of a run, and its metrics file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.best = path / "best"
        self.config = path / "config.yaml"
        self.metrics = path / "metrics.jsonl"
        self.tokenizer = path / "tokenizer.json"
        self._tensorboard: Any = None

    def create(self, cfg: RunConfig, data: Path, tokenizer: Tokenizer | None = None) -> None:
        """Makes the folder of a new run; it keeps the tokenizer, so that resuming needs no other. None: characters.

        Raises:
            ConfigError: it holds a run already, or something else that a run would mix with, or cannot be written.
        """
        if self.config.exists():
            raise ConfigError(
                f"{self.path} holds a run already; choose another --out, or go on with: "
                f"{command('train', '--resume', self.path)}"
            )
        if other := self._of_others():
            raise ConfigError(f"{self.path} holds {other}; choose another --out")
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            write_json(self.path / "data.json", data_record(data))
            self.tokenizer.unlink(missing_ok=True)
            if tokenizer is not None:
                write_json(self.tokenizer, tokenizer.to_json())
            write_text(self.config, configs.to_yaml(cfg))
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot write the run folder: {os_reason(error)}") from error

    def _of_others(self) -> str:
        """What is in the folder and not of a run that could not begin: it would be lost, or taken for this run's."""
        if any((self.path / name).exists() for name in ("config.json", "model.safetensors")):
            return "a model"
        if any((self.path / name).exists() for name in ("prepared.json", "train.jsonl")):
            return "prepared data"
        if self.best.exists() or any(self.checkpoints.glob("step-*")):
            return "models or checkpoints of an earlier run"
        if self.tokenizer.exists() and not (self.path / "data.json").exists():
            return "a tokenizer.json of its own"
        return ""

    def write_config(self, cfg: RunConfig) -> None:
        """The config again, with what was found out when the run started.

        Raises:
            CheckpointError: it cannot be written.
        """
        # In place: the run's lock is on this very file. Cut short, it is the config of a run without steps.
        try:
            self.config.write_text(configs.to_yaml(cfg), encoding="utf-8")
        except OSError as error:
            raise CheckpointError(f"cannot write: {os_reason(error)}", self.config) from error

    def discard(self) -> None:
        """Takes back ``create``: what cannot be trained must not block its folder."""
        for path in (self.config, self.path / "data.json", self.path / "started.json", self.tokenizer):
            path.unlink(missing_ok=True)

    def read_tokenizer(self) -> Tokenizer | None:
        """The tokenizer that the run keeps; None: the characters of its training texts.

        Raises:
            CheckpointError: it is damaged.
        """
        return read_tokenizer(self.tokenizer) if self.tokenizer.exists() else None

    def open(self, data: Path | None) -> tuple[RunConfig, Path]:
        """The config and data folder of an earlier run; ``data`` is where the data are now, if they moved.

        Raises:
            CheckpointError: not a run folder.
            DataError: the data are gone, or a manifest has changed since, so the run cannot be continued exactly.
        """
        if not self.config.is_file():
            raise CheckpointError(
                "not a run folder (no config.yaml); --resume takes the --out of an earlier run", self.path
            )
        cfg = configs.load(self.config)
        try:
            record = json.loads((self.path / "data.json").read_text(encoding="utf-8"))
            folder = data or Path(record["folder"])
            before = {split: record[split] for split in ("train", "dev")}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                "missing or damaged: nothing says which data this run was on; start a new run", self.path / "data.json"
            ) from error
        if data is None and not folder.is_dir():
            raise DataError(
                "the data of this run are no longer there; "
                f"where they are now: asr train --resume {self.path} --data DIR",
                folder,
            )
        now = data_record(folder)
        for split in ("train", "dev"):
            if now[split] != before[split]:
                raise DataError(
                    "has changed since the run began, so resuming would not continue it; restore it or start a new run",
                    folder / f"{split}.jsonl",
                )
        self._compare_tokenizer(folder / TOKENIZER_FILE)
        if data is not None and Path(now["folder"]) != Path(record["folder"]):
            log.info("the data are now in %s (the same manifests as in %s)", now["folder"], record["folder"])
            write_json(self.path / "data.json", now)
        return cfg, folder

    def _compare_tokenizer(self, theirs: Path) -> None:
        try:
            own, given = (json.loads(path.read_text(encoding="utf-8")) for path in (self.tokenizer, theirs))
        except (OSError, ValueError):
            return  # there are not two
        if own != given:
            log.warning("%s is another one than when the run began; the run keeps its own", theirs)

    def write_environment(self, environment: dict[str, Any]) -> None:
        """``environment.json`` of the first start; a resumed run whose environment differs says so."""
        path = self.path / "environment.json"
        if not path.exists():
            write_json(path, environment)
            return
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            log.warning("%s is damaged; written anew", path)
            write_json(path, environment)
            return
        now, before = _flat_environment(environment), _flat_environment(before)
        for key in sorted(set(before) | set(now)):
            if before.get(key) != now.get(key) and key not in ("dirty", "platform"):
                log.warning(
                    "resumed with another %s: %s, before %s%s", key, now.get(key), before.get(key), _MEANS.get(key, "")
                )

    def write_dropped(self, dropped: Sequence[Dropped]) -> None:
        """``dropped.jsonl``: every utterance that is not trained on, and why; no file when there is none."""
        if dropped:
            write_text(self.path / "dropped.jsonl", "".join(json.dumps(vars(d)) + "\n" for d in dropped))

    def cut_metrics(self, step: int, epoch: int) -> None:
        """Removes metrics of steps, and of validations after ``epoch``, that a resumed run will do again."""
        if not self.metrics.exists():
            return
        kept = []
        for raw in self.metrics.read_bytes().splitlines():
            try:
                line = raw.decode("utf-8")
                row = json.loads(line)
                # A checkpoint of an epoch's last step can be from before the validation that has the same step.
                if row["step"] <= step and not (row["kind"] == "valid" and row["epoch"] > epoch):
                    kept.append(line)
            except (ValueError, KeyError, TypeError):
                break  # a line cut short by a kill; what follows is later still
        with open_atomic(self.metrics) as file:
            file.writelines(line + "\n" for line in kept)

    def add_metrics(self, **values: Any) -> None:
        """Appends one JSON line, and scalars to TensorBoard when it is installed.

        Raises:
            CheckpointError: it cannot be written; the checkpoints are kept.
        """
        try:
            with self.metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps(values, allow_nan=False) + "\n")
        except OSError as error:
            raise CheckpointError(
                f"cannot write: {os_reason(error)}; free space, then: {command('train', '--resume', self.path)}",
                self.metrics,
            ) from error
        if self._tensorboard is not None:
            for name, value in values.items():
                if isinstance(value, int | float) and name not in ("step", "epoch"):
                    self._tensorboard.add_scalar(f"{values['kind']}/{name}", value, values["step"])

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the run for this process; the system lets go of it however the process ends.

        Raises:
            ConfigError: another process is training this run.
        """
        with held(self.config, f"{self.path}: another process is training this run; stop it first"):
            yield

    @contextmanager
    def recording(self, step: int) -> Iterator[None]:
        """While open, the library's log also goes to ``train.log``, and metrics to TensorBoard when it is installed."""
        handler = logging.FileHandler(self.path / "train.log", encoding="utf-8")
        formatter = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
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
            # On a full disk closing fails too; the error that brought us here says more.
            with suppress(OSError):
                handler.close()
            if self._tensorboard is not None:
                with suppress(OSError):
                    self._tensorboard.close()


#: what another value than before means for the result
_MEANS = {
    "processes": "; the batches are the same ones, and the result up to rounding (with dropout: other masks)",
    "threads": "; the result is the same up to rounding",
    "precision": "; the result is not what it would have been, set train.precision to keep it",
}


def _flat_environment(environment: dict[str, Any]) -> dict[str, Any]:
    """Each package's version by its own name; a run of before several processes were possible had one."""
    packages = environment.get("packages")
    rest = {k: v for k, v in environment.items() if k != "packages"}
    return {"processes": 1, **rest, **(packages if isinstance(packages, dict) else {})}


def _summary_writer(folder: Path, step: int) -> Any:
    import importlib.util

    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    # Steps that a resumed run does again take the place of those done before it was killed.
    return SummaryWriter(str(folder), purge_step=step + 1)


def data_record(folder: Path) -> dict[str, str]:
    """Where the manifests are and what is in them, by checksum.

    Raises:
        DataError: train.jsonl or dev.jsonl is missing.
    """
    record = {"folder": str(folder.resolve())}
    for split in ("train", "dev"):
        path = folder / f"{split}.jsonl"
        try:
            record[split] = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise DataError(
                f"cannot read: {os_reason(error)}; --data takes a folder with train.jsonl and dev.jsonl "
                "('asr prepare' writes them)",
                path,
            ) from error
    return record
