"""Prints how many bytes a process needs beyond the model while DeepSeek-VL2 tiny encodes a picture of seven tiles.

    python benchmarks/memory_vl2.py IMPLEMENTATION DTYPE

`speed_vl2.py` calls it for both implementations in turn.
"""

import sys

import torch

from peak_memory import tell_encoding_memory
from port_vl2 import implementations
from speed_vl2 import picture


@torch.no_grad()
def main() -> None:
    """Encodes the picture, and prints the most memory that was taken beyond the models'."""
    implementation, dtype = sys.argv[1:]
    run = picture(implementations(0, getattr(torch, dtype)))[implementation]
    tell_encoding_memory(run)


if __name__ == "__main__":
    main()
