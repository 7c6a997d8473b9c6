"""`python -m loupe` does what `loupe` does."""

import sys

from loupe.command_line import main

if __name__ == "__main__":
    sys.exit(main())
