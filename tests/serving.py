"""Servers for tests: in a thread of this process, on a port that is free."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asr.server.host import Host
    from asr.server.settings import Settings

PATIENCE_S = 30.0


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what a server does a moment later."""
    give_up_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up_s, "it did not come true"
        time.sleep(0.01)


@contextmanager
def serving(hosts: Mapping[str, Host], settings: Settings | None = None) -> Iterator[str]:
    """Run a server until the block ends; its address, such as http://127.0.0.1:40001."""
    from asr.server.run import address_of, bind, make_server
    from asr.server.settings import Settings

    ready = threading.Event()
    server = make_server(hosts, settings or Settings(), ready.set)
    with bind("127.0.0.1", 0) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            assert ready.wait(PATIENCE_S), "the server did not start"
            yield address_of(listening)
        finally:
            server.should_exit = True
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), "the server did not stop"
