"""The exit codes of commands, and the error that carries one."""

from __future__ import annotations

from enum import IntEnum

from webhookd.errors import WebhookdError


class Exit(IntEnum):
    """The exit codes of every command that talks to the admin API."""

    DONE = 0
    FAILED = 1  # the API refused the request, an operation failed, or the command failed for some of several ids
    USAGE = 2  # the command's usage or a setting is wrong: the command or the API found the mistake
    NOT_FOUND = 3
    UNAVAILABLE = 4  # the API could not be reached, or is unavailable
    NOT_ALLOWED = 5
    INTERRUPTED = 130


# The exit codes in words, for the help of each group.
EXIT_CODES = (
    "Exit codes: 0 done; 1 failed or refused; 2 wrong usage or settings; 3 not found; 4 the API could not be reached or is "
    "unavailable; 5 not allowed; 130 interrupted."
)


class ApiError(WebhookdError):
    """The admin API refused, failed, or did not answer. The command ends with `exit_code`.

    The message may quote the API, and is safe to print: it holds no control characters.
    """

    def __init__(self, message: str, exit_code: Exit) -> None:
        super().__init__(message)
        self.exit_code = exit_code
