"""Runs the command line for `python -m webhookd`."""

from webhookd.cli.main import main

main()
