#!/usr/bin/env bash
# huggingface_hub 2.4.0, snapshot_download where the hub is not reached (no network, or local_files_only=True): its
# documentation raises IncompleteSnapshotError if "the cached snapshot is missing some of the requested files". A guess
# would be: so a folder that it hands out is whole. Once a single file was fetched with hf_hub_download (what
# transformers' AutoConfig does), the folder with that file alone is handed out as the snapshot, with no error and no
# warning. The check needs the list of files, which only snapshot_download itself keeps. Callers must look for the
# weights themselves. Source: _snapshot_download.py, _raise_if_incomplete_snapshot.
# A hub of two files runs on this machine. Exit 0: as described; 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check huggingface_hub==2.4.0
HF_HOME="$folder/home" HF_HUB_DISABLE_PROGRESS_BARS=1 "$folder/venv/bin/python" - "$folder" <<'PY'
import http.server
import json
import os
import sys
import threading
from pathlib import Path

COMMIT = "c" * 40
FILES = {"config.json": b"{}", "model.safetensors": b"weights"}


class Hub(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if "/tree/" in self.path:
            rows = [{"type": "file", "path": name, "size": len(FILES[name]), "oid": name} for name in FILES]
            content = json.dumps(rows).encode()
        elif self.path.startswith("/api/"):
            content = json.dumps({"id": "a/b", "sha": COMMIT, "siblings": []}).encode()
        else:
            content = FILES[self.path.rpartition("/")[2]]
        self.send_response(200)
        for name, value in {"Content-Length": len(content), "ETag": '"1"', "X-Repo-Commit": COMMIT}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET

    def log_message(self, *_): ...


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"  # read when the library is imported

import huggingface_hub as hub
from huggingface_hub.errors import IncompleteSnapshotError

print("huggingface_hub", hub.__version__)
single, listed = Path(sys.argv[1], "single"), Path(sys.argv[1], "listed")
hub.hf_hub_download("a/b", "config.json", cache_dir=single)
hub.snapshot_download("a/b", allow_patterns="config.json", cache_dir=listed)
server.shutdown()
server.server_close()


def handed_out(cache, **options):
    try:
        snapshot = hub.snapshot_download("a/b", cache_dir=cache, **options)
    except IncompleteSnapshotError:
        return "IncompleteSnapshotError"
    return sorted(path.name for path in Path(snapshot).iterdir())


found = []
for name, cache in (("hf_hub_download", single), ("snapshot_download", listed)):
    for options in ({}, {"local_files_only": True}):
        found.append(handed_out(cache, **options))
        print(f"config.json fetched with {name}; now without the hub, {options}: {found[-1]}")

as_described = found == [["config.json"], ["config.json"], "IncompleteSnapshotError", "IncompleteSnapshotError"]
sys.exit(None if as_described else "changed: snapshots of which one file is there")
PY
