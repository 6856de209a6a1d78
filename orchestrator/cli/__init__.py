"""The command line: one file per command, each registered by a line in `main.py`."""
