"""python -m naru."""

import sys

from naru.cli import main

sys.exit(main())
