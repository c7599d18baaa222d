"""Prints how many bytes a process needs beyond the model while DeepSeek-VL2 tiny encodes a picture of seven tiles.

    python benchmarks/memory_vl2.py IMPLEMENTATION DTYPE

`speed_vl2.py` calls it for both implementations in turn.
"""

import json
import sys
import threading
from pathlib import Path

import torch

from port_vl2 import implementations
from speed_vl2 import picture


def own_bytes() -> int:
    """Anonymous memory of this process; pages of mapped files belong to the system, which can drop them."""
    return int(Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()[0]) * 1024


@torch.no_grad()
def main() -> None:
    """Encodes the picture, and prints the most memory that was taken beyond the models'."""
    implementation, dtype = sys.argv[1:]
    run = picture(implementations(0, getattr(torch, dtype)))[implementation]
    before = own_bytes()
    peak, done = [before], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            peak[0] = max(peak[0], own_bytes())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    run()
    done.set()
    watcher.join()
    print(json.dumps({"encoding_bytes": peak[0] - before}))


if __name__ == "__main__":
    main()
