"""The command `mso`: parse, call one flow, render."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
