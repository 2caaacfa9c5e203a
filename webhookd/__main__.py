"""`python -m webhookd`."""

from webhookd.cli import main

main()
