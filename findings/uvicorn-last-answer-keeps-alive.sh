#!/bin/sh
# uvicorn, asked to stop: the answers under way do not say that their connections end.
#
# A good guess: a graceful stop finishes what is under way, and tells its clients "Connection: close", so that none sends
# its next request there. Seen with uvicorn 0.54.0 (h11 0.16.0): the answer comes without that header, the connection is
# closed behind it, and the client's next request on it fails, here with RemoteDisconnected. An application can set the
# header itself; h11 then ends the connection in order. Exits non-zero when that changes.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" -q install uvicorn==0.54.0 h11==0.16.0
cd "$work"
cat > app.py <<'PY'
import asyncio


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    await asyncio.sleep(1)
    headers = [(b"content-length", b"2")] + ([(b"connection", b"close")] if scope["path"] == "/close" else [])
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})
PY
cat > try.py <<'PY'
import http.client
import signal
import socket
import subprocess
import sys
import time


def last_answer(path):
    """The Connection header of the last answer, and what happens to the next request on its connection."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "app:app", "--port", str(port), "--log-level", "error"]
    server = subprocess.Popen(command)
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except OSError:
            time.sleep(0.05)
    client = http.client.HTTPConnection("127.0.0.1", port)
    client.request("GET", path)
    time.sleep(0.3)
    server.send_signal(signal.SIGTERM)
    answer = client.getresponse()
    assert (answer.status, answer.read()) == (200, b"ok")
    header = answer.getheader("connection")
    try:
        client.request("GET", "/")
        client.getresponse()
        after = "answered"
    except OSError as error:
        after = type(error).__name__
    server.wait()
    return header, after


plain, told = last_answer("/"), last_answer("/close")
print("without the header, next request:", plain, "- with it, which makes the client connect anew:", told)
assert plain[0] is None and plain[1] in ("RemoteDisconnected", "ConnectionResetError", "BrokenPipeError")
assert told == ("close", "ConnectionRefusedError")
PY
"$work/venv/bin/python" try.py
