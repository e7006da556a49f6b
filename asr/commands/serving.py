"""``asr serve``: models behind the protocols that existing clients speak."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from asr.commands.console import say, shown
from asr.commands.options import (
    DecodingOptions,
    MachineOptions,
    NoSpeechThreshold,
    Precision,
    load_recognizer,
    with_groups,
)
from asr.errors import ConfigError
from asr.machine import has_torch

if TYPE_CHECKING:
    from asr.server.host import Host
    from asr.server.settings import Settings


@dataclass(frozen=True)
class ServerOptions:
    """Options of the address, of who may use it, and of how much."""

    host: Annotated[str, Option(help="Listen here; 0.0.0.0: at all addresses of this machine.")] = "127.0.0.1"
    port: Annotated[int, Option(min=0, max=65535, help="0: any that is free.")] = 8000
    api_key_file: Annotated[Path | None, Option(help="Ask for one of the keys in this file, one per line.")] = None
    origins: Annotated[
        list[str] | None, Option("--origin", metavar="URL", help="A page's address that may use the server.")
    ] = None
    max_upload: Annotated[int, Option(min=1, metavar="MIB", help="Of one request.")] = 100
    max_audio: Annotated[float, Option(min=0.01, metavar="HOURS", help="Of one request.")] = 4.0
    max_clients: Annotated[int, Option(min=1, help="Requests and live streams under way.")] = 128
    max_streams: Annotated[int, Option(min=1, help="Live streams.")] = 64
    max_waiting: Annotated[int, Option(min=1, help="Requests that wait for a model.")] = 64
    grace: Annotated[float, Option(min=0, metavar="SECONDS", help="For what is under way when it ends.")] = 30.0

    def settings(self) -> Settings:
        """Return the server's settings.

        Raises:
            AsrError: the keys cannot be used, or an origin is none.
        """
        from asr.server.settings import Settings, origin, read_keys

        return Settings(
            host=self.host,
            keys=() if self.api_key_file is None else read_keys(self.api_key_file),
            origins=tuple(map(origin, self.origins or [])),
            max_upload=self.max_upload << 20,
            max_audio_s=self.max_audio * 3600,
            max_clients=self.max_clients,
            max_streams=self.max_streams,
            max_waiting=self.max_waiting,
            grace_s=self.grace,
        )

    def are_keys_open(self) -> bool:
        """Return true if all users of this machine can read the keys."""
        return self.api_key_file is not None and bool(self.api_key_file.stat().st_mode & stat.S_IROTH)


@with_groups
def serve(
    *,
    models: Annotated[
        list[str], Argument(metavar="MODEL...", help="As for transcribe; NAME=MODEL sets what clients call it.")
    ],
    server: ServerOptions,
    language: Annotated[str, Option(help="Of the models, such as en: requests may then name it.")] = "",
    decoding: DecodingOptions,
    no_speech_threshold: NoSpeechThreshold = 0.6,
    precision: Precision = "auto",
    machine: MachineOptions,
) -> None:
    """Serve models over HTTP: OpenAI's API, live sockets, and a page."""
    decoding.check()
    try:
        from asr.server.run import address_of, bind
        from asr.server.run import serve as run
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("starlette", "uvicorn", "websockets", "multipart", "python_multipart", "anyio", "h11"):
            raise
        # the extra would bring PyTorch where somebody left it out
        packages = "'asr-ctc[server]'" if has_torch() else "starlette uvicorn python-multipart websockets"
        raise ConfigError(f"asr serve needs {missing}: pip install {packages}") from error

    from asr.streaming.engines import why_not

    settings = server.settings()
    named = _named(models)
    with bind(server.host, server.port) as listening:
        hosts: dict[str, Host] = {}
        for name, path in named.items():
            hosts[name] = _host(name, path, settings, decoding, machine, precision, no_speech_threshold, language)

        def ready() -> None:
            say(f"asr: serving {shown(', '.join(hosts))} at {address_of(listening)} (Ctrl-C ends it)")
            if not settings.keys and not settings.is_local:
                say("asr: whoever reaches this address may use it: --api-key-file asks for a key")
            if server.are_keys_open():
                say(f"asr: all users of this machine can read the keys: chmod 600 {shown(server.api_key_file)}")
            for name, host in hosts.items():
                if why := why_not(host.recognizer.model):
                    say(f"asr: {shown(name)} does not stream, so live text comes after each pause: {why}")

        run(hosts, settings, listening, ready)


def _named(models: list[str]) -> dict[str, Path]:
    """Return the models by the names that clients call them.

    Raises:
        ConfigError: two have one name.
    """
    named: dict[str, Path] = {}
    for text in models:
        name, equals, path = text.partition("=")
        if not equals or os.path.lexists(text):
            name, path = (text if ":" in text else Path(os.path.abspath(text)).name), text  # noqa: PTH100 (links stay)
        if not name or not path:
            raise ConfigError(f"'{text}': expected MODEL or NAME=MODEL")
        if name in named:
            raise ConfigError(f"two models are called '{name}'; name them: NAME=MODEL")
        named[name] = Path(path)
    return named


def _host(
    name: str,
    path: Path,
    settings: Settings,
    decoding: DecodingOptions,
    machine: MachineOptions,
    precision: str,
    no_speech_threshold: float,
    language: str,
) -> Host:
    """Load a model, and return its host."""
    from asr.server.host import Host

    recognizer = load_recognizer(path, machine, decoding, precision=precision, confidence=True)
    recognizer.no_speech_threshold = no_speech_threshold
    created = int(path.stat().st_mtime) if path.exists() else 0
    return Host(name, recognizer, settings, language=language, created=created)
