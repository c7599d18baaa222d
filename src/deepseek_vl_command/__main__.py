"""`python -m deepseek_vl_command`."""

import sys

from . import main

sys.exit(main())
