"""`python -m deepseek_vl_hf`, for launchers that take a module."""

import sys

from .cli import main

sys.exit(main())
