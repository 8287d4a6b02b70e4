"""``python forks.py`` imports torch once, then forks a run for each line ``FOLDER METHOD`` of its input.

A run writes its process id, a line a step, and ``done``; then the parent writes ``ended STATUS``.  The
parent imports nothing of neurosim: numba's threads start with neurosim.random and do not survive a fork.
"""

from __future__ import annotations

import os
import sys

import numba  # noqa: F401
import pydantic  # noqa: F401
import safetensors.torch  # noqa: F401
import torch._dynamo  # noqa: F401  (optimisers import it at their first use)


def main() -> None:
    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            print(os.getpid(), flush=True)
            from worker import slow_run

            slow_run(*line.split())
            os._exit(0)
        print(f"ended {os.waitpid(child, 0)[1]}", flush=True)


if __name__ == "__main__":
    main()
