"""``python -m bids_brainage.toolbox``: the same as ``brainage``."""

import sys

from bids_brainage.toolbox import main

if __name__ == "__main__":
    sys.exit(main())
