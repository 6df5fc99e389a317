"""What bounds a process that handles a stranger's file: set first, then the module that handles it is run.

    python -m core.child_bounds <module> <its server's pid> <cpu_s> <memory_bytes> <max_file_bytes> <the module's own …>

Started by `bounded_child.py`. It imports nothing else of the server.
"""

import contextlib
import importlib
import os
import resource
import sys
import threading
import time
from pathlib import Path

NICENESS = 10
OOM_SCORE = 900
"""When memory runs out the system should end this process first (proc(5), oom_score_adj)."""
ADDRESS_SPACE_MARGIN_BYTES = 512_000_000
"""Address space is not memory: libraries and freed blocks count too. The watch below bounds what is resident."""
OUT_OF_MEMORY = 81
"""The exit status of a process that held more memory than allowed. The other statuses are Python's own."""
_WATCH_S = 0.02


def main() -> None:
    module, parent, cpu_s, memory_bytes, max_file_bytes, *own = sys.argv[1:]
    sys.argv = [module, *own]
    bound(cpu_s=int(cpu_s), memory_bytes=int(memory_bytes), max_file_bytes=int(max_file_bytes))
    threading.Thread(target=_watch, args=(int(memory_bytes), int(parent)), daemon=True).start()
    importlib.import_module(module).main()


def bound(*, cpu_s: int, memory_bytes: int, max_file_bytes: int) -> None:
    """What the system refuses this process from here on. Where it knows a bound not, the others still hold."""
    os.nice(NICENESS)
    os.umask(0o077)  # What it writes is of the stranger's file: nobody else reads it.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE), encoding="ascii")
    bounds = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: max_file_bytes,
        resource.RLIMIT_CPU: cpu_s,
        resource.RLIMIT_AS: memory_bytes + ADDRESS_SPACE_MARGIN_BYTES,
    }
    for what, most in bounds.items():
        with contextlib.suppress(OSError, ValueError):  # ValueError: a lower bound is already set. OSError: macOS.
            resource.setrlimit(what, (most, most))


def resident_bytes() -> int:
    """The memory this process holds. (The peak that `getrusage` tells on Linux begins with the server's own.)"""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except FileNotFoundError:  # macOS: the peak, in bytes.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return pages * resource.getpagesize()


def _watch(memory_bytes: int, parent: int) -> None:
    """Ends the process when it holds too much, also inside a library's call, or when the server is gone."""
    while os.getppid() == parent:
        if resident_bytes() > memory_bytes:
            os._exit(OUT_OF_MEMORY)
        time.sleep(_WATCH_S)
    os._exit(1)


if __name__ == "__main__":
    main()
