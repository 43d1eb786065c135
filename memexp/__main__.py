"""`python -m memexp` is `memexp`."""

import sys

from memexp.cli.main import main

sys.exit(main())
