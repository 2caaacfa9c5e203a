"""Runs a command as a unit's sandbox would: its system call filter, no new privileges, no memory that is written and then run.

    python -m tests.helpers.sandbox '@system-service ~@privileged ~@resources' COMMAND …

The groups are systemd's own, as `systemd-analyze syscall-filter` lists them. The filter is libseccomp's, as in systemd. A
system call that is not allowed fails with EPERM.
"""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys

_ERRNO = 0x00050000 | errno.EPERM  # SCMP_ACT_ERRNO(EPERM), from seccomp.h
_ALLOW = 0x7FFF0000  # SCMP_ACT_ALLOW
_NO_NEW_PRIVILEGES, _MDWE, _REFUSE_EXEC_GAIN = 38, 65, 1  # from linux/prctl.h


def calls(filters: str) -> set[str]:
    """Returns the system calls that a SystemCallFilter allows. A group or name after a ~ is removed."""
    allowed: set[str] = set()
    for word in filters.split():
        if word.startswith("~"):
            allowed -= _expanded(word[1:])
        else:
            allowed |= _expanded(word)
    return allowed


def _expanded(name: str) -> set[str]:
    if not name.startswith("@"):
        return {name}
    listed = subprocess.run(["systemd-analyze", "syscall-filter", name], capture_output=True, text=True, check=True).stdout
    names = [line.strip() for line in listed.splitlines()[1:] if line.strip() and not line.strip().startswith("#")]
    return set().union(*(_expanded(inner) for inner in names))


def enter(filters: str) -> None:
    """Puts this process under the filter permanently."""
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((_NO_NEW_PRIVILEGES, 1), (_MDWE, _REFUSE_EXEC_GAIN)):
        # Only Linux 6.3 and newer knows the second option.
        if libc.prctl(option, value, 0, 0, 0) and option == _NO_NEW_PRIVILEGES:
            raise OSError(ctypes.get_errno(), "prctl")
    seccomp = ctypes.CDLL("libseccomp.so.2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(_ERRNO))
    for name in calls(filters):
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:  # only if this machine has the system call
            seccomp.seccomp_rule_add(context, _ALLOW, number, 0)
    if failed := seccomp.seccomp_load(context):
        raise OSError(-failed, "seccomp_load")


if __name__ == "__main__":
    enter(sys.argv[1])
    os.execv(sys.argv[2], sys.argv[2:])
