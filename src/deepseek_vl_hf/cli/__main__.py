"""`python -m deepseek_vl_hf.cli`."""

import sys

from . import main

sys.exit(main())
