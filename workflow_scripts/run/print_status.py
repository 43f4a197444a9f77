"""One line for every training that is running, from the status files that train_adapter keeps.

python workflow_scripts/print_status.py results
"""

import contextlib
import json
import sys
import time
from pathlib import Path

STALE = 120  # [s] without news, after which a training is probably dead


def status_line(status: dict, now: float) -> str:
    """`job  step/steps  loss  tokens/s  time left`, with a warning if the last news is old. now: [s] since 1970."""
    line = (
        f"{status['job']:<50} {status['step']:>5}/{status['steps']:<5} loss {status['loss']:<8.4f} "
        f"{status['tokens_per_s']:>7.0f} tokens/s  {status['eta_s']:>5.0f} s left"
    )
    age = now - status["updated"]
    return f"{line}  (no news for {age:.0f} s)" if age > STALE else line


def read_statuses(folder: Path) -> list[dict]:
    """What the trainings in `folder` last said. A file that is being written, or goes just now, is left out."""
    statuses = []
    for file in sorted(folder.glob("*/status/**/*.json")):
        if not file.parent.name.endswith(".partial"):
            with contextlib.suppress(FileNotFoundError):
                statuses.append(json.loads(file.read_text()))
    return statuses


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "results")
    running = [status for status in read_statuses(folder) if status["step"] < status["steps"]]
    print("\n".join(status_line(status, time.time()) for status in running) or "no training is running")


if __name__ == "__main__":
    main()
