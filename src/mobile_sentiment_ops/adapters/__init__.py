"""One file, one client: every adapter implements a port of `ports.py`."""
