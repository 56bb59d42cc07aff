"""`python -m mobile_sentiment_ops` is the command `mso`."""

import sys

from mobile_sentiment_ops.cli import main

if __name__ == "__main__":
    sys.exit(main())
