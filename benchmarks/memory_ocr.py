"""Prints how many bytes a process needs beyond the model while DeepSeek-OCR encodes a page's picture.

    python benchmarks/memory_ocr.py IMPLEMENTATION DTYPE

`ocr.py` calls it for both implementations in turn.
"""

import sys

import torch

from ocr import picture
from peak_memory import tell_encoding_memory
from port_ocr import implementations


@torch.no_grad()
def main() -> None:
    """Encodes the picture, and prints the most memory that was taken beyond the models'."""
    implementation, dtype = sys.argv[1:]
    run = picture(implementations(getattr(torch, dtype)))[implementation]
    tell_encoding_memory(run)


if __name__ == "__main__":
    main()
