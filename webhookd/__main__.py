"""Runs the command line for `python -m webhookd`."""

from webhookd.cli import main

main()
