"""Signs of life between the processes of a run, so that none waits for one that is lost."""

from __future__ import annotations

import logging
import os
import threading
from datetime import timedelta

log = logging.getLogger(__name__)

#: seconds between two signs of life of a process
BEAT_S = 5.0
#: a process that has not been heard of for so long is given up
LOST_S = 40.0


class Liveness(threading.Thread):
    """Tell the others that this process lives, listen to them, and end this process if one of them is lost.

    A process that waits for a lost machine waits inside torch, where no exception reaches it.
    """

    def __init__(self, rank: int, size: int, advice: str) -> None:
        import torch.distributed as dist

        super().__init__(name="asr-liveness", daemon=True)
        self._rank = rank
        self._others = [other for other in range(size) if other != rank]
        self._advice = advice
        self._ended = threading.Event()
        # A connection of its own: the group's is busy while it waits.
        self._store = dist.TCPStore(  # type: ignore[attr-defined]
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=timedelta(seconds=30)
        )

    def run(self) -> None:
        counts = dict.fromkeys(self._others, 0)
        # Silence is counted in own beats, not by the clock: if all were frozen together, nobody is lost.
        silent = dict.fromkeys(self._others, 0)
        while not self._ended.wait(BEAT_S):
            try:
                self._store.add(f"asr/beat/{self._rank}", 1)
                latest = {rank: self._store.add(f"asr/beat/{rank}", 0) for rank in self._others}
            except RuntimeError:
                # torchrun itself, or the first process
                self._give_up("the process that holds them together cannot be reached")
                return

            for rank, count in latest.items():
                silent[rank] = silent[rank] + 1 if counts[rank] == count else 0
                counts[rank] = count
                if silent[rank] * BEAT_S >= LOST_S:
                    self._give_up(f"process {rank} has not been heard of for {LOST_S:g} s")
                    return

    def stop(self) -> None:
        """Stop telling and listening: this process leaves in good order."""
        self._ended.set()
        self.join(2 * BEAT_S)  # a thread inside torch would not survive the end of the interpreter

    def claim_report(self) -> bool:
        """Return true in the process that is to report the end of the run: the first one that asks."""
        try:
            return self._store.add("asr/report", 1) == 1
        except RuntimeError:
            return True

    def _give_up(self, reason: str) -> None:
        if self._ended.is_set():
            return
        if self.claim_report():
            log.error("%s; the earlier checkpoints are whole%s", reason, self._advice)
        os._exit(2)
