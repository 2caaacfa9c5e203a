"""Runs the steps of a Dockerfile, and its image, without a container engine: with chroot and Linux's namespaces.

This needs root, unshare and mmdebstrap. mmdebstrap makes the stand-in for the base image: Debian's own Python, of the same
release of Debian and the same version of Python. The real base builds Python from source below /usr/local. Like the real base,
the stand-in has `python` and `pip`, no compiler, and no bytecode of its standard library. If WEBHOOKD_TEST_BASE_ROOT names a
folder, that folder is the base, as from `docker export`.

An engine adds some things that are absent here: a network of its own, cgroups, seccomp, and a /dev/shm that a container may
write to. So here a container has no such writable place at all.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers.image import Image
from tests.helpers.secrets import note_environment
from tests.helpers.wait import until

_PACKAGES = "python3,python3-venv,python3-pip,ca-certificates,netbase"
_PATH = "/usr/local/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PASSED = re.compile(r"PIP_\w+|SSL_CERT_\w+|REQUESTS_CA_BUNDLE|\w+_proxy", re.IGNORECASE)

# Arguments: root, "ro" or "rw", the outside paths to bind (one a line), a writable folder or nothing, then the command.
# The paths are absolute, since PATH is the image's.
_ENTER = """
root=$1 mode=$2 binds=$3 writable=$4
shift 4
/bin/mount --bind "$root" "$root"
/bin/mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
/bin/mount -t tmpfs -o nosuid,noexec,mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
    : >"$root/dev/$device"
    /bin/mount --bind "/dev/$device" "$root/dev/$device"
done
/bin/ln -s /proc/self/fd "$root/dev/fd"
/bin/mkdir "$root/dev/shm"
/bin/mount -o remount,bind,ro "$root/dev"
[ "$mode" = ro ] || /bin/mount -t tmpfs -o nosuid,nodev,noexec,mode=1777 tmpfs "$root/dev/shm"
IFS='
'
for path in $binds; do
    /bin/mount --bind "$path" "$root$path"
    /bin/mount -o remount,bind,ro "$root$path"
done
[ "$mode" = rw ] || /bin/mount -o remount,bind,ro "$root"
[ -z "$writable" ] || /bin/mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs "$root$writable"
exec /usr/sbin/chroot "$root" "$@"
"""


def skip_where_not_able() -> None:
    """Skips the test if a root cannot be made or entered."""
    if os.geteuid() != 0:
        pytest.skip("making a root for the image needs root")
    if not os.environ.get("WEBHOOKD_TEST_BASE_ROOT") and shutil.which("mmdebstrap") is None:
        pytest.skip("no mmdebstrap; apt install mmdebstrap")
    probe = subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], check=False, capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"no namespaces can be made here ({probe.stderr.strip()}); run this on a machine of its own")


def _entered(image: Image, arguments: Iterable[str], *, mode: str, binds: Iterable[str] = (), writable: str = "") -> list[str]:
    unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
    enter = ["/bin/sh", "-euc", _ENTER, "sh", str(image.root), mode, "\n".join(binds), writable]
    return [*unshare, *enter, *_as_user(image.user), "/usr/bin/env", "-C", image.workdir, *arguments]


def _as_user(user: str) -> list[str]:
    if user in ("0", "0:0"):
        return []
    uid, gid = user.split(":")
    limits = ["--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
    return ["/usr/bin/setpriv", f"--reuid={uid}", f"--regid={gid}", *limits]


class Scratch:
    """Steps of a builder that really run. Roots are made below `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._binds, self._env = _network()

    def base(self, name: str, root: Path) -> Image:
        """Copies the stand-in for the image `name`, which is Docker's image of Python, to `root`."""
        root.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", str(self._debian(name)), str(root)], check=True)
        return Image(root, {"PATH": _PATH})

    def run(self, image: Image, arguments: list[str], env: dict[str, str]) -> None:
        """Runs a RUN as the image's user, with this machine's network and pip settings."""
        with _mount_points(image.root, self._binds):
            command = _entered(image, arguments, mode="rw", binds=self._binds)
            done = subprocess.run(
                command,
                check=False,
                env={"HOME": "/root", **self._env, **env},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        assert done.returncode == 0, f"{arguments}\n{done.stdout}"

    def _debian(self, name: str) -> Path:
        if given := os.environ.get("WEBHOOKD_TEST_BASE_ROOT"):
            return Path(given)
        root = self._folder / "debian"
        if not root.exists():
            release = name.partition("@")[0].rpartition("-")[2]
            options = ["--mode=root", "--variant=minbase", "--dpkgopt=force-unsafe-io", f"--include={_PACKAGES}"]
            done = subprocess.run(
                ["mmdebstrap", *options, release, str(root)],
                check=False,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            assert done.returncode == 0, done.stdout
            (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
            for folder in list((root / "usr/lib").rglob("__pycache__")):
                shutil.rmtree(folder)
        return root


def _network() -> tuple[list[str], dict[str, str]]:
    """Returns the paths and the variables with which pip finds its index here."""
    told = subprocess.run([sys.executable, "-m", "pip", "config", "debug"], check=True, capture_output=True, text=True).stdout
    files = re.findall(r"^  (\S+), exists: True$", told, re.MULTILINE)
    values = [word.removeprefix("file://").split("/simple")[0] for word in re.findall(r"[^\s'=]*/[^\s'=]+", told)]
    wanted = {"/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs", *files, *values}
    # A path in a folder that is bound anyway needs no mount of its own.
    paths = sorted(path for path in wanted if path.startswith("/") and Path(path).exists() and path != "/")
    binds = [path for path in paths if not any(path.startswith(f"{other}/") for other in paths)]
    return binds, {name: value for name, value in os.environ.items() if _PASSED.fullmatch(name)}


@contextmanager
def _mount_points(root: Path, paths: Iterable[str]) -> Iterator[None]:
    """Creates each of `paths` that is missing below `root`, and removes the created ones at the end."""
    made: list[Path] = []
    for path in paths:
        inside = root / path.lstrip("/")
        made += [parent for parent in reversed(inside.parents) if not parent.exists()]
        inside.parent.mkdir(parents=True, exist_ok=True)
        if not inside.exists():
            made.append(inside)
            inside.mkdir() if Path(path).is_dir() else inside.touch()
    yield
    for inside in reversed(made):
        inside.rmdir() if inside.is_dir() else inside.unlink()


class Container:
    """A container of `image`: a read-only root, no capability, no writable folder but `writable`. Its command is PID 1."""

    def __init__(self, image: Image, log: Path, env: dict[str, str], *, writable: str = "") -> None:
        self._image = image
        self._writable = writable
        self._env = {**image.env, "HOME": "/nonexistent", "HOSTNAME": "container", **env}
        self.log = log
        self._outer: subprocess.Popen[bytes] | None = None
        note_environment(self._env)

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *_: object) -> None:
        if self._outer is not None and self._outer.poll() is None:
            self._outer.kill()
            self._outer.wait(10)

    async def start(self, *arguments: str) -> None:
        """Starts the container, with `arguments` instead of the image's own, and returns when its program runs."""
        image = self._image
        command = [*image.entrypoint, *(arguments or image.cmd)]
        with self.log.open("ab") as log:
            self._outer = subprocess.Popen(  # noqa: ASYNC220  returns as soon as it has forked
                _entered(image, command, mode="ro", writable=self._writable), env=self._env, stdout=log, stderr=log
            )
        await until(lambda: self._program() not in ("", "sh", "chroot", "setpriv", "env"), "the container's program runs")

    def _program(self) -> str:
        assert self._outer is not None
        assert self._outer.poll() is None, f"the container ended:\n{self.log.read_text()}"
        return Path(f"/proc/{self.pid}/comm").read_text().strip() if self.pid else ""

    @property
    def pid(self) -> int:
        """Returns the outside number of the process that is PID 1 inside, or 0 if there is none yet."""
        assert self._outer is not None
        outer = self._outer.pid
        children = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
        return int(children[0]) if children else 0

    def status(self, field: str) -> str:
        """Returns a field of the process's /proc/PID/status."""
        found = re.search(rf"^{field}:\s+(.+)$", Path(f"/proc/{self.pid}/status").read_text(), re.MULTILINE)
        assert found is not None
        return found[1]

    def run(self, *arguments: str) -> tuple[int, str]:
        """Runs a command in the container, as an engine runs a health check; returns its exit code and its output."""
        inside = ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--root"]
        command = [*inside, *_as_user(self._image.user), "/usr/bin/env", "-C", self._image.workdir, *arguments]
        done = subprocess.run(
            command, check=False, env=self._env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60
        )
        return done.returncode, done.stdout

    def wait(self, timeout: float) -> int:
        """Waits until the container ends, and returns its exit code."""
        assert self._outer is not None
        return self._outer.wait(timeout)
