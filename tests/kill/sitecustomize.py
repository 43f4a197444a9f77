"""Python runs this file first where it is on PYTHONPATH: the process of a moment says when it is there, and waits.

Every file operation, subprocess and import that Python does raises an audit event. KILL_AT (JSON) names a program, the
events and paths that count, which of them is the moment, and how long to wait there.
"""

import contextlib
import json
import os
import re
import sys
import time

moment = json.loads(os.environ.get("KILL_AT", "null"))
seen = []


def watch(event, arguments):
    if event not in moment["events"] or len(seen) >= moment["nth"]:
        return
    # asked anew each time: a program may be a fork of another (fork_program.py)
    if os.path.basename(getattr(sys, "argv", [""])[0]) != moment["program"]:
        return
    path = next((os.fsdecode(each) for each in arguments if isinstance(each, str | bytes)), "")
    if not re.search(moment["path"], path) or (event == "open" and moment["write"] and not is_write(arguments)):
        return
    seen.append(path)
    if len(seen) == moment["nth"]:
        with contextlib.suppress(FileExistsError):  # a second process of the program came later
            report = os.open(moment["report"], os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            os.write(report, f"{os.getpid()} {event} {path}\n".encode())
            os.close(report)
            time.sleep(moment["wait"])


def is_write(arguments):
    """Of the event `open`, whose arguments are path, mode and flags."""
    return bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))


if moment:
    sys.addaudithook(watch)
