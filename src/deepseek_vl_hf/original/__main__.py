"""`python -m deepseek_vl_hf.original script.py [arguments]`: runs a script that imports the original packages."""

import runpy
import sys
from pathlib import Path

from .modules import install

USAGE = "usage: python -m deepseek_vl_hf.original SCRIPT [ARGUMENTS]"


def main(arguments: list[str]) -> None:
    """Runs a script as `python` would.

    Raises:
        SystemExit: there is no such script.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.exit(f"{USAGE}\nRuns a script that imports deepseek_vl or deepseek_vl2 with deepseek_vl_hf behind them.")
    script = Path(arguments[0])
    if not script.is_file():
        sys.exit(f"{USAGE}\nThere is no script {script}.")
    install()
    sys.argv = [str(script), *arguments[1:]]
    sys.path[0] = str(script.parent.resolve())
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
