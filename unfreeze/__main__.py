"""`python -m unfreeze` is `unfreeze`."""

import sys

from unfreeze.cli import main

sys.exit(main())
