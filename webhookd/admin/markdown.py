"""The guide's Markdown as HTML. Raw HTML becomes text, headings get GitHub's ids, and links lead to pages that are served."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from urllib.parse import unquote, urlsplit

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict

INDEX = "index"  # the name of the page at /guide
_FOLDER = "webhookd/guide"  # the folder of the pages in the repository
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_NO_PART_OF_AN_ID = re.compile(r"[^\w\- ]")


@dataclass(slots=True, frozen=True)
class Section:
    """A part of a page that a search finds: the text below a heading, or a table's row that begins with a name in code."""

    anchor: str  # an id in the page; empty for text above the first heading
    heading: str
    level: int  # the level of the heading; 0 for a row
    text: str


@dataclass(slots=True, frozen=True)
class Article:
    """A rendered page. `title` is the text of the first heading, `body` is HTML."""

    title: str
    body: str
    sections: tuple[Section, ...]


def address(page: str) -> str:
    """Returns the path of a page on the admin listener."""
    return "/guide" if page == INDEX else f"/guide/{page}"


@dataclass(slots=True, frozen=True)
class Entry:
    """A page as the index lists it. `group` is the heading above the list."""

    title: str
    group: str


def listed(source: str) -> dict[str, Entry]:
    """Returns the pages to which the lists of `source` link, by name and in the order of the links."""
    found: dict[str, Entry] = {}
    depth, group = 0, ""
    for before, token in pairwise(_PARSER.parse(source)):
        depth += token.nesting if token.type.startswith(("bullet_list", "ordered_list")) else 0
        if before.type == "heading_open":
            group = _plain(token.children) if before.tag == "h2" else ""
        page, first = None, 0
        for i, child in enumerate(token.children or () if depth else ()):
            if child.type == "link_open":
                link = str(child.attrs["href"])
                page, first = None if "#" in link else _page(link), i + 1
            elif child.type == "link_close" and page is not None:
                found.setdefault(page, Entry(_plain((token.children or [])[first:i]), group))
    return found


def render(source: str, pages: Collection[str]) -> Article:
    """Renders a page. `pages` are the names of all pages: links to other files become text with the file's path."""
    tokens = _PARSER.parse(source)
    _name_headings_and_rows(tokens)
    sections = tuple(_sections(tokens))
    for token in tokens:
        if token.children:
            token.children = list(_links(token.children, pages))
        align = str(token.attrs.pop("style", "")).removeprefix("text-align:")
        if align:  # the content security policy forbids style attributes
            token.attrSet("class", f"to-{align}")
    title = next((section.heading for section in sections if section.level), "")
    return Article(title, _PARSER.renderer.render(tokens, _PARSER.options, {}), sections)


def _name_headings_and_rows(tokens: Sequence[Token]) -> None:
    used: Counter[str] = Counter()

    def name(token: Token, text: str) -> None:
        slug = _NO_PART_OF_AN_ID.sub("", text.strip().lower()).replace(" ", "-")
        token.attrSet("id", f"{slug}-{used[slug]}" if used[slug] else slug)
        used[slug] += 1

    for token, inline in pairwise(tokens):
        if token.type == "heading_open":
            name(token, _plain(inline.children))
    # Headings get their ids before rows, because links in the Markdown lead to headings only.
    for row, cell, inline in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if (row.type, cell.type) == ("tr_open", "td_open") and [c.type for c in inline.children or ()] == ["code_inline"]:
            name(row, _plain(inline.children))


@dataclass(slots=True)
class _Draft:
    anchor: str
    heading: str
    level: int
    parts: list[str] = field(default_factory=list)


def _sections(tokens: Sequence[Token]) -> Iterable[Section]:
    drafts = [_Draft("", "", 1)]
    here = below = drafts[0]  # `below`: the section of the last heading, which continues after a row
    for i, token in enumerate(tokens):
        anchor = str(token.attrs.get("id", ""))
        if token.type == "heading_open":
            here = below = _Draft(anchor, _plain(tokens[i + 1].children), int(token.tag[1:]))
            drafts.append(here)
        elif token.type == "tr_open" and anchor:
            here = _Draft(anchor, _plain(tokens[i + 2].children), 0)
            drafts.append(here)
        elif token.type == "tr_close":
            here = below
        elif token.type in ("fence", "code_block"):
            here.parts.append(token.content)
        elif token.type == "inline" and tokens[i - 1].type != "heading_open":
            here.parts.append(_plain(token.children))
    for draft in drafts:
        parts = draft.parts if draft.level else draft.parts[1:]  # a row's first cell is its heading
        text = " ".join(" ".join(parts).split())
        if draft.anchor or text:
            yield Section(draft.anchor, draft.heading, draft.level, text)


def _plain(tokens: Iterable[Token] | None) -> str:
    """Returns the text of inline tokens, without markup."""
    parts = []
    for token in tokens or ():
        if token.type == "image":
            parts.append(_plain(token.children))
        elif token.type in ("softbreak", "hardbreak"):
            parts.append(" ")
        elif token.type != "html_inline" or not token.content.startswith("<!--"):
            parts.append(token.content)
    return "".join(parts)


def _links(tokens: Iterable[Token], pages: Collection[str]) -> Iterable[Token]:
    """Yields inline tokens. Each link leads to an address on the admin listener, or is no link any more."""
    path, inside = "", list[Token]()  # of a link that leaves the guide
    for token in tokens:
        if token.type == "link_open" and (path := _outside(str(token.attrs["href"]), pages)):
            inside = []
        elif token.type == "link_close" and path:
            code = Token("code_inline", "code", 0, content=path)
            file = path.partition("#")[0]
            if _plain(inside) in (path, file, posixpath.basename(file)):
                yield code
            else:
                yield from (*inside, Token("text", "", 0, content=" ("), code, Token("text", "", 0, content=")"))
            path = ""
        elif path:
            inside.append(token)
        else:
            if token.type == "link_open" and (page := _page(str(token.attrs["href"]))) is not None:
                anchor = urlsplit(str(token.attrs["href"])).fragment
                token.attrSet("href", address(page) + (f"#{anchor}" if anchor else ""))
            yield token


def _outside(link: str, pages: Collection[str]) -> str:
    """Returns the path and the anchor of a link to a file of the repository that is not a page; otherwise an empty text."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc or not parts.path or parts.path.startswith("/") or _page(link) in pages:
        return ""
    path = posixpath.normpath(posixpath.join(_FOLDER, unquote(parts.path)))
    return f"{path}#{unquote(parts.fragment)}" if parts.fragment else path


def _page(link: str) -> str | None:
    """Returns the name of the page if the link leads to a Markdown file in the guide's folder, or None."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return None
    folder, file = posixpath.split(posixpath.normpath(posixpath.join(_FOLDER, parts.path)))
    return file.removesuffix(".md") if folder == _FOLDER and file.endswith(".md") else None


def _html_block(_: RendererHTML, tokens: Sequence[Token], index: int, __: OptionsDict, ___: EnvType) -> str:
    text = _COMMENT.sub("", tokens[index].content).strip()
    return f"<p>{escape(text)}</p>\n" if text else ""


def _html_inline(_: RendererHTML, tokens: Sequence[Token], index: int, __: OptionsDict, ___: EnvType) -> str:
    return escape(_COMMENT.sub("", tokens[index].content))


def _image(_: RendererHTML, tokens: Sequence[Token], index: int, __: OptionsDict, ___: EnvType) -> str:
    return escape(_plain(tokens[index].children))  # only Markdown files are served


def _table_open(*_: object) -> str:
    return '<div class="table">\n<table>\n'  # the box scrolls a table that is wider than the screen


def _table_close(*_: object) -> str:
    return "</table>\n</div>\n"


def _parser() -> MarkdownIt:
    # With `html`, the parser finds raw HTML and comments. The first two rules then show the HTML as text, and no comment.
    parser = MarkdownIt("commonmark", {"html": True}).enable("table")
    parser.add_render_rule("html_block", _html_block)
    parser.add_render_rule("html_inline", _html_inline)
    parser.add_render_rule("image", _image)
    parser.add_render_rule("table_open", _table_open)
    parser.add_render_rule("table_close", _table_close)
    return parser


_PARSER = _parser()
