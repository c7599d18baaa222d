"""What `deepseek-vl` runs: a module for each command. `deepseek_vl_command` reads the command line."""

from deepseek_vl_command import main

__all__ = ["main"]
