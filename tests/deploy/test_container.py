"""The container's image: hadolint and a rehearsal check its Dockerfile, and (long) its real steps run in a new root."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import tomllib
import zipfile
from inspect import signature
from pathlib import Path

import asyncpg
import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from typer.testing import CliRunner

from tests.conftest import Servers
from tests.helpers.dockerfile import DockerfileError, Ignore, parse
from tests.helpers.image import Builder, Image
from tests.helpers.locks import locked
from tests.helpers.rehearsal import Rehearsal, RehearsalError
from tests.helpers.running import KEY
from tests.helpers.scratch import Container, Scratch, skip_where_not_able
from tests.helpers.wait import until
from webhookd.authorizenet import sampling
from webhookd.cli.main import app
from webhookd.cli.operator.health_command import health
from webhookd.dev import traffic
from webhookd.dev.servers import free_port
from webhookd.settings import Settings

PROJECT = Path(__file__).parents[2]
DOCKERFILE = PROJECT / "deploy/Dockerfile"
TEXT = DOCKERFILE.read_text()
COMMENT = "\n".join(line.removeprefix("#").removeprefix(" ") for line in TEXT.partition("\nARG")[0].splitlines())
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())
RELEASE = PYPROJECT["project"]["version"]
# The example in the Dockerfile's comment: an image with handlers, and with a package that they need.
EXTENDED = textwrap.dedent(COMMENT[COMMENT.index("    FROM webhookd:") : COMMENT.index("\nThe digest fixes")])
HANDLER = """
import iniconfig

from webhookd import on


@on("net.authorize.payment.*")
async def note(event, connection):
    await connection.execute("INSERT INTO noted VALUES ($1, $2)", event.id, iniconfig.__name__)
"""
COMPILERS = ("gcc", "cc", "c++", "g++", "clang", "ld", "as", "make", "cargo", "rustc")


def seconds(text: str) -> int:
    assert re.fullmatch(r"\d+s", text)
    return int(text[:-1])


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> tuple[Image, Rehearsal]:
    steps = Rehearsal()
    return Builder(PROJECT, tmp_path_factory.mktemp("image"), steps).build(TEXT), steps


def with_handlers(context: Path) -> None:
    """Fills a folder with the files from which the image of the comment is made."""
    (context / "shop").mkdir(parents=True)
    (context / "shop/orders.py").write_text(HANDLER)
    (context / "requirements.txt").write_text(locked("requirements-dev.txt")["iniconfig"])


def test_hadolint_finds_nothing() -> None:
    program = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([program, DOCKERFILE], check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    assert "hadolint ignore" not in TEXT


def test_the_wheel_has_all_that_the_project_has(rehearsal: tuple[Image, Rehearsal]) -> None:
    wheel = rehearsal[1].wheel
    assert wheel is not None
    assert wheel.name == f"webhookd-{RELEASE}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as opened:
        found = {name for name in opened.namelist() if ".dist-info/" not in name}
    files = [path for folder in ("webhookd", "sql") for path in (PROJECT / folder).rglob("*") if path.is_file()]
    names = {str(path.relative_to(PROJECT)) for path in files if "__pycache__" not in path.parts}
    assert found == {name if name.startswith("webhookd/") else f"webhookd/{name}" for name in names}


def test_it_is_run_without_root_and_takes_its_signals_itself(rehearsal: tuple[Image, Rehearsal]) -> None:
    image, _ = rehearsal
    assert re.fullmatch(r"65532:65532", image.user), "a name would not show Kubernetes that it is not root"
    assert (image.entrypoint, image.cmd, image.stop_signal) == (["webhookd"], ["serve"], "SIGTERM")
    assert image.workdir == image.env["PYTHONPATH"] == "/app"
    assert image.env["PATH"].startswith("/opt/webhookd/bin:")
    users = re.findall(r"(?:groupadd|useradd)[^&]+?webhookd$", TEXT.replace("\\\n", ""), re.MULTILINE)
    assert all("--gid 65532" in user for user in users)


def test_its_settings_and_ports_are_webhookds(rehearsal: tuple[Image, Rehearsal]) -> None:
    image, _ = rehearsal
    given = {name: value for name, value in image.env.items() if name.startswith("WEBHOOKD_")}
    assert {name.removeprefix("WEBHOOKD_").lower() for name in given} == {"listen", "admin_listen"}
    for name, value in given.items():
        default = Settings.model_fields[name.removeprefix("WEBHOOKD_").lower()].default
        assert value == f"0.0.0.0:{default.rpartition(':')[2]}"
    assert image.ports == {int(value.rpartition(":")[2]) for value in given.values()}
    others = {"PATH", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE"}
    assert image.env.keys() == given.keys() | others


def test_its_health_check_asks_for_liveness_and_ends_in_time(rehearsal: tuple[Image, Rehearsal]) -> None:
    image, _ = rehearsal
    assert image.health == ["webhookd", "health", "--live"]
    assert CliRunner().invoke(app, [*image.health[1:], "--help"]).exit_code == 0
    own = signature(health).parameters["timeout"].default
    flags = image.health_flags
    assert own < seconds(flags["timeout"]) < seconds(flags["interval"])
    assert seconds(flags["start-period"]) >= 10
    assert int(flags["retries"]) >= 2


def test_its_labels_tell_the_release(rehearsal: tuple[Image, Rehearsal], tmp_path: Path) -> None:
    prefix = "org.opencontainers.image."
    labels = {name.removeprefix(prefix): value for name, value in rehearsal[0].labels.items() if name.startswith(prefix)}
    assert labels.keys() == {"title", "description", "licenses", "version", "revision"}
    assert (labels["version"], labels["licenses"]) == (RELEASE, PYPROJECT["project"]["license"])
    arguments = {"VERSION": "9.9", "REVISION": "0123abc"}
    given = Builder(PROJECT, tmp_path, Rehearsal(wheels=False), arguments=arguments).build(TEXT).labels
    assert (given[f"{prefix}version"], given[f"{prefix}revision"]) == ("9.9", "0123abc")
    assert set(re.findall(r"--build-arg (\w+)=", COMMENT)) <= set(re.findall(r"^ARG (\w+)=", TEXT, re.MULTILINE))
    assert f"-t webhookd:{RELEASE} ." in COMMENT


def test_both_stages_have_one_base_with_a_python_that_webhookd_runs_on() -> None:
    (base,) = {stage.base for stage in parse(TEXT)}
    # A tag alone could be another image tomorrow. No release is made without the digest.
    match = re.fullmatch(r"(python:(3\.\d+)-slim-(?:trixie|forky))@sha256:([0-9a-f]{64})", base)
    assert match is not None, base
    assert len(set(match[3])) > 8, "that is no digest of an image"
    assert Version(match[2]) in SpecifierSet(PYPROJECT["project"]["requires-python"])
    assert f"Programming Language :: Python :: {match[2]}" in PYPROJECT["project"]["classifiers"]
    assert f"docker buildx imagetools inspect {match[1]} " in COMMENT
    other = f"{match[1]}@sha256:{'0' * 64}"
    assert {stage.base for stage in parse(TEXT, {"BASE": other})} == {other}


def test_nothing_but_what_is_copied_goes_to_the_builder() -> None:
    ignore = Ignore((PROJECT / ".dockerignore").read_text().splitlines())
    kept_out = [".git/config", ".venv/bin/python", ".webhookd/dev.env", ".env", "webhookd/.env", "sql/.env.local"]
    kept_out += ["tests/conftest.py", "deploy/key.pem", "webhookd.toml", "dist/webhookd.whl"]
    kept_out += ["webhookd/__pycache__/cli.cpython-313.pyc", "sql/.webhookd/x"]
    assert [path for path in kept_out if not ignore.excludes(path)] == []
    copied = [
        source
        for stage in parse(TEXT)
        for one in stage.instructions
        if one.name == "COPY" and "from" not in one.flags
        for source in one.text.split()[:-1]
    ]
    listed = {line[1:] for line in (PROJECT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert listed == set(copied)


def test_no_server_of_webhookd_dev_is_locked_for_it() -> None:
    servers = {canonicalize_name(Requirement(text).name) for text in PYPROJECT["project"]["optional-dependencies"]["dev"]}
    assert servers & locked("requirements.txt").keys() == set()


def test_the_image_with_handlers_that_the_comment_shows_can_be_made(rehearsal: tuple[Image, Rehearsal], tmp_path: Path) -> None:
    with_handlers(tmp_path / "context")
    base = rehearsal[0]
    builder = Builder(tmp_path / "context", tmp_path, Rehearsal(), images={f"webhookd:{RELEASE}": base})
    image = builder.build(EXTENDED)
    assert (image.root / "app/shop/orders.py").read_text() == HANDLER
    assert (image.user, image.entrypoint) == (base.user, base.entrypoint)
    assert image.env["WEBHOOKD_HANDLERS"] == "shop.orders"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("COPY sql sql", "COPY sqll sql"),
        ("COPY sql sql", "COPY tests tests"),
        ("COPY --from=build", "COPY --from=builder"),
        ("/opt/webhookd /opt/webhookd", "/opt/webhook /opt/webhookd"),
        ("ENTRYPOINT", "ENTRYPIONT"),
        ('CMD ["serve"]', "CMD serve"),
        ('ENTRYPOINT ["webhookd"]', "ENTRYPOINT ['webhookd']"),
        ("FROM ${BASE}", "FROM ${BASES}"),
        ("--start-period", "--start-periode"),
        ("--require-hashes", "--requires-hashes"),
        ("--without-pip", "--with-out-pip"),
        ("--no-create-home", "--no-creat-home"),
        ("--invalidation-mode", "--invalidate-mode"),
        ("python -m compileall", "pyton -m compileall"),
        ("-m compileall", "-m compilall"),
        ("--python=/opt/webhookd", "--python=/opt/webhokd"),
        ("--requirement=deploy/requirements.txt", "--requirement=requirements.txt"),
        ("&& useradd", "&& userad"),
        ("${VERSION}", "${VERSON}"),
        ("EXPOSE 8080", "EXPOSE 8O80"),
        ("    && groupadd", "    && (groupadd"),
    ],
)
def test_a_slip_does_not_get_through_the_rehearsal(tmp_path: Path, before: str, after: str) -> None:
    slipped = TEXT.partition("\nARG BASE")[2].replace(before, after, 1)
    assert slipped != TEXT.partition("\nARG BASE")[2]
    with pytest.raises((DockerfileError, RehearsalError, ValueError)):
        Builder(PROJECT, tmp_path, Rehearsal(wheels=False)).build(f"ARG BASE{slipped}")


def test_a_source_that_the_wheel_needs_is_missed(tmp_path: Path) -> None:
    with pytest.raises(RehearsalError, match="sql"):
        Builder(PROJECT, tmp_path, Rehearsal()).build(TEXT.replace("COPY sql sql\n", ""))


def written(root: Path) -> dict[str, tuple[int, int, int]]:
    """Returns the inode, size and time of change (nanoseconds) of each path in a root."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in [*folders, *files]:
            at = Path(folder, name).lstat()
            found[str(Path(folder, name))] = (at.st_ino, at.st_size, at.st_ctime_ns)
    return found


def check_content(image: Image) -> None:
    """Checks what the last stage contains, and what it must not contain."""
    site = next((image.root / "opt/webhookd/lib").glob("python3.*/site-packages"))
    version = site.parent.name.removeprefix("python")
    here = {"python_version": version, "python_full_version": f"{version}.0", "sys_platform": "linux"}
    wanted = {"webhookd"}
    for name, block in locked("requirements.txt").items():
        marker = Requirement(block.partition("\\")[0]).marker
        if marker is None or marker.evaluate(here):
            wanted.add(name)
    installed = {canonicalize_name(path.name.partition("-")[0]) for path in site.glob("*.dist-info")}
    assert installed == wanted, "no pip, no embedded server, nothing that is not locked"
    programs = [image.root / folder / name for folder in ("usr/bin", "usr/local/bin", "opt/webhookd/bin") for name in COMPILERS]
    assert [str(program) for program in programs if program.exists()] == []
    assert {path.name for path in (image.root / "opt").iterdir()} == {"webhookd"}
    assert not (image.root / "src").exists()
    standard = [path for path in image.root.glob(f"usr/**/{site.parent.name}/asyncio/*.py") if path.is_file()]
    assert standard
    sources = [*site.rglob("*.py"), *standard]
    cached = [path.parent / "__pycache__" / f"{path.stem}.cpython-{version.replace('.', '')}.pyc" for path in sources]
    assert [str(path) for path in cached if not path.exists()] == []
    # The second word of a bytecode file's head: 1 means that the file is valid by a hash that is never checked.
    assert {path.read_bytes()[4:8] for path in cached} == {b"\x01\0\0\0"}
    own = [path for folder in ("opt", "app") for path in (image.root / folder).rglob("*") if not path.is_symlink()]
    assert [str(path) for path in own if path.stat().st_uid != 0 or path.stat().st_mode & 0o022] == []


async def check_running(image: Image, servers: Servers, connection: asyncpg.Connection[asyncpg.Record], log: Path) -> None:
    """Takes a container through its life: migration, start, health checks, webhooks and stop."""
    settings = {
        **servers.settings,
        "WEBHOOKD_LISTEN": f"0.0.0.0:{(public := free_port(0))}",
        "WEBHOOKD_ADMIN_LISTEN": f"0.0.0.0:{free_port(0)}",
        **{name: value for name, value in os.environ.items() if name.startswith("AWS_")},
    }
    before = written(image.root)
    with Container(image, log.with_name("migrate.log"), settings) as migration:
        await migration.start("migrate", "--check")
        assert await asyncio.to_thread(migration.wait, 30) == 0, migration.log.read_text()
    with Container(image, log.with_name("dev.log"), {}, writable="/tmp") as dev:
        await dev.start("dev", "--folder", "/tmp/dev")
        assert await asyncio.to_thread(dev.wait, 30) == 1
        assert "webhookd[dev]" in dev.log.read_text()

    await connection.execute("CREATE TABLE noted (event uuid PRIMARY KEY, by text NOT NULL)")
    with Container(image, log, settings) as container:
        await container.start()

        async def healthy() -> bool:
            return (await asyncio.to_thread(container.run, *image.health))[0] == 0

        await until(healthy, "the health check succeeds", deadline=seconds(image.health_flags["start-period"]))
        await until(lambda: container.run("webhookd", "health")[0] == 0, "it is ready", deadline=20)
        # The last number of NSpid is the process id in the container.
        assert (container.status("NSpid").split()[-1], container.status("Uid").split()) == ("1", ["65532"] * 4)
        assert {int(container.status(field), 16) for field in ("CapEff", "CapPrm", "CapBnd", "CapInh")} == {0}
        _, said = container.run("/usr/bin/touch", "/x", "/app/x", "/tmp/x", "/run/x", "/dev/x", "/var/tmp/x")
        assert said.count("Read-only file system") == 6, said

        sent = sampling.stream(sampling.matching_types("*"), 46, duplicates=0, out_of_order=False, first=1)
        summary = await traffic.send(sent, f"http://127.0.0.1:{public}/webhooks/authorize-net", KEY, rate=None, connections=4)
        assert summary.statuses == {200: 46}

        async def processed() -> bool:
            return bool(await connection.fetchval("SELECT count(*) = 46 FROM events WHERE status = 'processed'"))

        await until(processed, "every webhook is processed", deadline=30)
        by_handler = await connection.fetch("SELECT by FROM noted")
        payments = await connection.fetchval("SELECT count(*) FROM events WHERE event_type LIKE 'net.authorize.payment.%'")
        assert [row["by"] for row in by_handler] == ["iniconfig"] * payments
        assert payments > 0

        os.kill(container.pid, signal.SIGSTOP)
        code, said = await asyncio.to_thread(container.run, *image.health)
        assert (code, "no answer within 3 s" in said) == (1, True)
        os.kill(container.pid, signal.SIGCONT)
        await until(healthy, "the health check succeeds again")

        os.kill(container.pid, signal.Signals[image.stop_signal])
        assert await asyncio.to_thread(container.wait, 12) == 0, container.log.read_text()
        logged = container.log.read_text()
    assert written(image.root) == before
    assert '"stopped"' in logged
    assert "Read-only" not in logged
    assert "ermission denied" not in logged


@pytest.mark.long
@pytest.mark.timeout(1500)
async def test_its_very_steps_make_an_image_that_runs_where_nothing_can_be_written(
    servers: Servers, connection: asyncpg.Connection[asyncpg.Record], tmp_path: Path
) -> None:
    skip_where_not_able()
    context = tmp_path / "context"
    with_handlers(context)
    with tempfile.TemporaryDirectory(prefix="webhookd-image-") as made:  # a gigabyte, which pytest would keep
        folder = Path(made)
        scratch = Scratch(folder)
        image = await asyncio.to_thread(Builder(PROJECT, folder / "image", scratch).build, TEXT)
        check_content(image)
        images = {f"webhookd:{RELEASE}": image}
        again = await asyncio.to_thread(Builder(PROJECT, folder / "again", scratch).build, TEXT)
        assert again.digests() == image.digests(), "two builds make the same files"
        extended = await asyncio.to_thread(Builder(context, folder / "extended", scratch, images=images).build, EXTENDED)
        await check_running(extended, servers, connection, tmp_path / "container.log")
