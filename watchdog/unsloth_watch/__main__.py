"""``python -m unsloth_watch``."""

import sys

from unsloth_watch.cli.main import main

sys.exit(main())
