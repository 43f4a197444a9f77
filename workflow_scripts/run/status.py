"""A program's own news of how far it is, in a file that `make status` and the live view read (print_status.py)."""

import time
from pathlib import Path

from run.files import canonical, partial

EVERY = 3.0  # [s] between two writes: a file system may be slow, and nobody reads faster


class Status:
    """The news of one job, which begins now. file: None for none; `first`: the steps that were done before."""

    def __init__(self, file: Path | None, job: str, first: int = 0):
        self.file, self.job, self.first = file, job, first
        self.began, self.written = time.time(), 0.0

    def report(self, step: int, steps: int, loss: float, tokens_per_s: float) -> None:
        """Write how far it is, unless that was done a moment ago. loss: of the last step [nats]."""
        now = time.time()
        if self.file is None or now - self.written < EVERY:
            return
        self.written = now
        news = {
            "job": self.job,
            "step": step,
            "steps": steps,
            "loss": round(loss, 4),
            "tokens_per_s": round(tokens_per_s),
            "eta_s": round((now - self.began) / max(step - self.first, 1) * (steps - step)),
            "updated": round(now),
        }
        with partial(self.file) as temporary:
            temporary.write_text(canonical(news) + "\n", encoding="utf-8")

    def end(self) -> None:
        """There is no more news."""
        if self.file is not None:
            self.file.unlink(missing_ok=True)
