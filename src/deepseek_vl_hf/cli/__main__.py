"""`python -m deepseek_vl_hf.cli`; it loads the package first, so `python -m deepseek_vl_command` is quicker."""

import sys

from . import main

sys.exit(main())
