"""``asr shard``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from asr.commands.console import print_json, print_result, say, shown
from asr.commands.options import Json
from asr.heartbeat import counted


def shard(
    manifest: Annotated[Path, Argument(metavar="MANIFEST", help="JSON Lines; docs/formats.md.")],
    out: Annotated[Path, Option(help="Folder of the new manifest; the tar files go into its 'shards'.")],
    shard_mib: Annotated[int, Option(metavar="N", min=1, help="Size of a tar file, about, in MiB.")] = 512,
    as_json: Json = False,
) -> None:
    """Pack the audio of a manifest into tar files (WebDataset), with a manifest of them. Run again, it goes on."""
    from asr.data import manifest as manifests
    from asr.data.sharding import write_shards

    read = manifests.read(manifest)
    with counted("tar files", None) as advance:
        done = write_shards(read, out, shard_mib, lambda: advance(1))
    if as_json:
        document: dict[str, Any] = {
            "manifest": str(done.manifest),
            "shards": [str(path) for path in done.shards],
            "kept": done.kept,
            "files": done.files,
            "utterances": len(read),
        }
        print_json(document)
        return
    kept = f", {done.kept} of them as they were" if done.kept else ""
    say(f"{done.files:,} audio files of {len(read):,} utterances in {len(done.shards):,} shards{kept}")
    print_result(shown(done.manifest))
