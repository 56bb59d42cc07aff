"""`python -m mobile_sentiment_ops` is the command `mso`."""

from mobile_sentiment_ops.cli import main

if __name__ == "__main__":
    main()
