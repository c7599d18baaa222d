#!/usr/bin/env python
"""Converts a DeepSeek-VL checkpoint; the same as `deepseek-vl convert`."""

import sys

from deepseek_vl_command import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
