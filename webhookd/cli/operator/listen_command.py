"""`webhookd listen`: events for a program on this machine, while you write it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from webhookd.cli.operator import options
from webhookd.cli.operator.api import Api, Json, with_api
from webhookd.cli.operator.failures import EXIT_CODES
from webhookd.cli.operator.screen import instant, plain, short_type, tell_json
from webhookd.errors import SettingsError
from webhookd.operate.filter import Filter
from webhookd.runtime.console import FOLDER, Folder, bytes_of, err, out, readable
from webhookd.runtime.console import Json as AsJson
from webhookd.settings.sources import is_loopback

if TYPE_CHECKING:
    from webhookd.cli.operator.listen import Listener, Sent
    from webhookd.deliver.destination import Destination

_REQUESTS = 100  # requests that wait, while the person goes on to press `r`
HELP = (
    "Post events to a program on this machine, as a destination would, while you write the program.\n\n"
    "The command asks the admin API for new events every second, and posts each to `--to`. So your machine needs no tunnel "
    "and no open port. The command only looks: webhookd stores nothing, counts no attempt, and its own destinations go on. A "
    "token that may only look is enough (WEBHOOKD_API_TOKEN). The events hold customer data.\n\n"
    "Each request has the headers of Standard Webhooks. The secret is made and printed, unless you give one by "
    "`--secret-file`. The header X-ANET-Signature is there if you give `--key-file`. An event is posted once, whatever the "
    "answer is.\n\n"
    "In a terminal, a table shows the answers: `r` sends the chosen event again, `d` shows its request and the answer, `j` "
    "and `k` choose, `q` quits. Elsewhere, each answer is a line; with `--json`, an object.\n\n"
    "For example: `webhookd listen --to http://localhost:3000/hooks --event-type 'payment.*' --since 2h`.\n\n" + EXIT_CODES
)


@options.filtered(Filter, without=("status", "received_to"))
def listen(
    to: Annotated[str, typer.Option("--to", metavar="URL", help="The program's address, such as http://localhost:3000/hooks.")],
    *,
    chosen: Json,
    condition: Annotated[
        str | None, typer.Option("--filter", help="A condition on the payload in JMESPath, such as 'authAmount > `100`'.")
    ] = None,
    body: Annotated[
        str, typer.Option("--body", help="exact: the provider's bytes; envelope: an object around them.")
    ] = "exact",
    secret_file: Annotated[Path | None, readable("A file with the secret `whsec_…` that signs. [made and printed]")] = None,
    key_file: Annotated[Path | None, readable("A file with the Signature Key for the header X-ANET-Signature.")] = None,
    timeout: Annotated[float, typer.Option(min=0.1, max=300, help="Seconds that an answer may take.")] = 10.0,
    url: options.Url = None,
    folder: Folder = FOLDER,
    as_json: AsJson = False,
) -> None:
    """Posts events to a program, until it is interrupted."""
    secret = _secret(secret_file)
    destination = _destination(to, condition=condition, body=body, secret=secret, timeout=timeout)
    key = None if key_file is None else _text(key_file, "--key-file")
    if to.lower().startswith("http://") and not is_loopback(to):
        _note(f"warning: the events, which hold customer data, go unencrypted to {destination.settings.place}")
    if secret_file is None:
        _note(f"secret of this session: {secret}")
    since = chosen.pop("received_from", None)

    async def work(api: Api) -> None:
        from webhookd.cli.operator.listen import Listener

        async with Listener(api, destination, signature_key=key) as listener:
            if out.is_terminal and not as_json:
                await _watch(listener, f"{destination.settings.place}", since, chosen)
                return
            async for sent in listener.events(since, **chosen):
                await listener.send(sent)
                tell_json(sent.as_json()) if as_json else _tell_line(sent)

    with_api(url, folder, work)


async def _watch(listener: Listener, title: str, since: str | None, query: Json) -> None:
    from rich.live import Live

    from webhookd.cli.operator.listen_screen import Board, single_keys

    board = Board(f"events for {title}")
    # One sender: an event that the person sends again waits for its turn, and new events wait until nothing else waits.
    jobs: asyncio.Queue[Sent] = asyncio.Queue(_REQUESTS)
    quit_ = asyncio.Event()

    async def take() -> None:
        async for sent in listener.events(since, **query):
            await jobs.join()
            board.add(sent)
            await jobs.put(sent)

    async def send() -> None:
        while True:
            await listener.send(await jobs.get())
            jobs.task_done()

    def press() -> None:
        for key in os.read(sys.stdin.fileno(), 32).decode(errors="ignore") or "q":  # the terminal is gone
            if key == "q":
                quit_.set()
            elif key == "r" and (again := board.chosen) is not None and not jobs.full():
                jobs.put_nowait(again)
            else:
                board.press(key)

    working = [
        asyncio.create_task(take(), name="listen: events"),
        asyncio.create_task(send(), name="listen: requests"),
        asyncio.create_task(quit_.wait(), name="listen: the end"),
    ]
    with Live(board, console=out, refresh_per_second=8), contextlib.ExitStack() as stack:
        if sys.stdin.isatty():
            stack.enter_context(single_keys())
            loop = asyncio.get_running_loop()
            loop.add_reader(sys.stdin.fileno(), press)
            stack.callback(loop.remove_reader, sys.stdin.fileno())
        try:
            done, _ = await asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in working:
                task.cancel()
            await asyncio.gather(*working, return_exceptions=True)
    for task in done:
        task.result()  # raises the error that ended the task


def _tell_line(sent: Sent) -> None:
    seconds = "" if sent.answer is None else f"{sent.answer.seconds:.3f} s"
    parts = (instant(sent.event["received_at"]), sent.outcome, seconds, short_type(sent.event["event_type"]), sent.event["id"])
    out.print(Text("  ".join(plain(part) for part in parts if part)), soft_wrap=True)


def _note(text: str) -> None:
    err.print(text, markup=False, highlight=False, soft_wrap=True)


def _secret(file: Path | None) -> str:
    return "whsec_" + base64.b64encode(os.urandom(32)).decode() if file is None else _text(file, "--secret-file")


def _text(file: Path, option: str) -> str:
    text = bytes_of(file).decode("ascii", "replace").strip()
    if not text:
        raise SettingsError(f"{option}: the file is empty")
    return text


def _destination(to: str, *, condition: str | None, body: str, secret: str, timeout: float) -> Destination:
    """Returns the destination of the options. Raises SettingsError that names the option."""
    from pydantic import ValidationError

    from webhookd.deliver.destination import Destination
    from webhookd.settings.destinations import DestinationSettings

    names = {"url": "--to", "filter": "--filter", "body": "--body", "secrets": "--secret-file", "timeout": "--timeout"}
    given: dict[str, Any] = {"url": to, "filter": condition, "body": body, "secrets": secret, "timeout": timeout}
    try:
        settings = DestinationSettings.model_validate(given | {"allow_private": True})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        option = names.get(str(first["loc"][0]), "--to")
        raise SettingsError(f"{option}: {first['msg'].removeprefix('Value error, ')}") from None
    return Destination("listen", settings)
