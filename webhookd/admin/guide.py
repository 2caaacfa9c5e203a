"""The guide: the Markdown files of `webhookd/guide` as pages of the admin listener, and an index of their sections."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from html import escape
from itertools import groupby
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import orjson
from aiohttp import web

from webhookd.admin.pages import Page
from webhookd.admin.route import refused

if TYPE_CHECKING:
    from webhookd.admin.markdown import Article, Entry

FOLDER = Path(__file__).parent.parent / "guide"
_CURRENT = ' aria-current="page"'
_TEMPLATE = Path(__file__).parent / "docs" / "guide.html"


class Guide:
    """The pages of the guide.

    The first request renders all pages, in a thread. The start of the daemon must not wait for this: the import of the Markdown
    parser alone takes a twentieth of a second.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        self._folder = folder
        self._lock = asyncio.Lock()
        self._pages: dict[str, Page] = {}

    async def serve(self, request: web.Request) -> web.Response:
        """Answers with the page of the request's path, or with 404."""
        async with self._lock:  # requests that come meanwhile wait for the same pages
            if not self._pages:
                self._pages = await asyncio.to_thread(build, self._folder)
        page = self._pages.get(request.path)
        if page is None:
            return refused(404, "the guide has no such page: /guide lists the pages")
        return await page.serve(request)


def build(folder: Path = FOLDER) -> dict[str, Page]:
    """Renders index.md of a folder and the pages that index.md lists. Returns the pages and the search's index by path."""
    from webhookd.admin.markdown import INDEX, Entry, address, listed, render

    def source(name: str) -> str:
        return (folder / f"{name}.md").read_text(encoding="utf-8")

    names = listed(source(INDEX))
    articles = {address(name): render(source(name), {INDEX, *names}) for name in (INDEX, *names)}
    start = Entry(articles[address(INDEX)].title, "")
    entries = {address(INDEX): start} | {address(name): entry for name, entry in names.items()}
    template = Template(_TEMPLATE.read_text(encoding="utf-8"))
    pages = {path: _page(template, path, article, entries) for path, article in articles.items()}
    sections = [section for path, article in articles.items() for section in _index(path, article, entries[path].title)]
    return pages | {"/guide/search.json": Page(orjson.dumps(sections), "application/json")}


def _page(template: Template, path: str, article: Article, entries: Mapping[str, Entry]) -> Page:
    order = list(entries)
    at = order.index(path)
    neighbours = {"prev": order[at - 1 : at], "next": order[at + 1 : at + 2]} if at else {"next": order[1:2]}
    turns = [(rel, other) for rel, found in neighbours.items() for other in found]
    text = template.substitute(
        title=escape(entries[path].title),
        pages="\n".join(_navigation(path, article, entries)),
        content=article.body,
        turns="\n".join(f'<a rel="{rel}" href="{other}">{escape(entries[other].title)}</a>' for rel, other in turns),
    )
    return Page(text.encode(), "text/html; charset=utf-8")


def _navigation(path: str, article: Article, entries: Mapping[str, Entry]) -> Iterable[str]:
    """Yields the lists of all pages, group by group, with the sections of the page at `path`."""
    groups = {entry.group for entry in entries.values()}  # the sections of index.md that hold lists
    parts = [part for part in article.sections if part.level == 2 and part.heading not in groups]
    for group, members in groupby(entries.items(), lambda item: item[1].group):
        if group:
            yield f'<p class="guide-group">{escape(group)}</p>'
        yield "<ul>"
        for other, entry in members:
            yield f'<li><a href="{other}"{_CURRENT if other == path else ""}>{escape(entry.title)}</a>'
            if other == path and parts:
                yield "<ul>"
                yield from (f'<li><a href="#{escape(part.anchor)}">{escape(part.heading)}</a></li>' for part in parts)
                yield "</ul>"
            yield "</li>"
        yield "</ul>"


def _index(path: str, article: Article, title: str) -> Iterable[dict[str, str]]:
    for section in article.sections:
        address = f"{path}#{section.anchor}" if section.anchor else path
        yield {"page": title, "heading": section.heading or title, "address": address, "text": section.text}
