#!/usr/bin/env python
"""Converts an original DeepSeek-VL checkpoint to the transformers layout."""

import argparse
import sys

from deepseek_vl_hf.checkpoints import convert_checkpoint


def main() -> int:
    """Parses the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", metavar="SRC", help="folder of the original checkpoint; it is only read")
    parser.add_argument("destination", metavar="DST", help="folder to create")
    arguments = parser.parse_args()
    try:
        convert_checkpoint(arguments.source, arguments.destination, report=print)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
