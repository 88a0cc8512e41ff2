"""Run a command, and end it and remove its folder when the server that asked for it dies.

Started as ``python -I supervise.py FOLDER COMMAND...`` with a pipe as standard input. The server never
writes into the pipe: its end is the news that the server is gone, however it died. Without this, a killed
Orthanc would leave a scorer running and a patient's images in the temporary folder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading

DIED_BY_SIGNAL = 128  # plus the signal's number, as shells report it
# When memory runs out, the kernel shall end the scorer, which is tried again, and not Orthanc.
OUT_OF_MEMORY_FILE = "/proc/self/oom_score_adj"
OUT_OF_MEMORY_PENALTY, OUT_OF_MEMORY_WORST = 500, 1000  # proc(5): from -1000 to 1000


def main(arguments: list[str]) -> int:
    folder, command = arguments[0], arguments[1:]
    # A handler of its own, so that the group can be ended without ending this process first; unlike
    # "ignore" it is not inherited by the command.
    signal.signal(signal.SIGTERM, lambda *_: None)
    _volunteer_for_out_of_memory()  # the command inherits it
    server_gone = threading.Event()
    watcher = threading.Thread(target=_end_with_server, args=(folder, server_gone), daemon=True)
    watcher.start()
    try:
        status = subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode
    except OSError as error:
        sys.stderr.write(f"{type(error).__name__}: the scorer could not be started\n")
        return DIED_BY_SIGNAL - 1  # 127, as shells report it
    if server_gone.is_set():
        watcher.join()
    return status if status >= 0 else DIED_BY_SIGNAL - status


def _volunteer_for_out_of_memory() -> None:
    with contextlib.suppress(OSError, ValueError), open(OUT_OF_MEMORY_FILE, "r+") as file:
        score = int(file.read()) + OUT_OF_MEMORY_PENALTY
        file.seek(0)
        file.write(str(min(score, OUT_OF_MEMORY_WORST)))


def _end_with_server(folder: str, server_gone: threading.Event) -> None:
    # os.read and not sys.stdin: a thread that holds a Python stream's lock breaks the exit of the interpreter
    while os.read(0, 4096):
        pass
    server_gone.set()
    os.killpg(0, signal.SIGTERM)
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
