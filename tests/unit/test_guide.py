"""The guide becomes pages without markup of its own, its links lead somewhere, and its search knows every section."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from tests.helpers.guide import anchor as anchor_of
from webhookd.admin import guide
from webhookd.admin.guide import FOLDER, Guide, build
from webhookd.admin.markdown import Entry, listed, render
from webhookd.dev.provider import TIMING
from webhookd.settings import Settings

ROOT = FOLDER.parent.parent
PAGES = {"index", "handlers", "settings"}


class Links(HTMLParser):
    """The ids and the links of a page, and the attributes that a content security policy forbids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.forbidden: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif name == "href" and tag == "a":
                self.links.append(value or "")
            elif name == "style" or name.startswith("on"):
                self.forbidden.append(f"{tag} {name}")


def body(source: str) -> str:
    return render(source, PAGES).body


async def served(pages: Guide, path: str) -> web.Response:
    return await pages.serve(make_mocked_request("GET", path))


async def texts(pages: Guide, *paths: str) -> list[str]:
    return [str((await served(pages, path)).text) for path in paths]


def small(folder: Path, **sources: str) -> Guide:
    """Writes a guide of a few pages."""
    for name, source in sources.items():
        (folder / f"{name}.md").write_text(source)
    return Guide(folder)


def test_headings_have_the_ids_that_github_gives_them() -> None:
    source = "# What's new?\n## `make run`, and *more*\n## A \u2013 B\n## Twice\n### Twice\n## Twice\n## Für_Ähnliches 2.0\n"
    assert re.findall(r' id="([^"]*)"', body(source)) == [
        "whats-new",
        "make-run-and-more",
        "a--b",
        "twice",
        "twice-1",
        "twice-2",
        "für_ähnliches-20",
    ]


def test_a_table_is_a_table_without_style_attributes() -> None:
    source = "| setting | figure |\n|:---|---:|\n| `PORT` | 1 |\n| other | **2** |\n"
    made = body(source)
    assert '<div class="table">' in made
    assert '<th class="to-right">figure</th>' in made
    assert '<tr id="port">\n<td class="to-left"><code>PORT</code></td>' in made
    assert '<td class="to-right"><strong>2</strong></td>' in made
    assert "style" not in made


@pytest.mark.parametrize(
    ("link", "address"),
    [
        ("handlers.md", "/guide/handlers"),
        ("./handlers.md", "/guide/handlers"),
        ("handlers.md#errors", "/guide/handlers#errors"),
        ("index.md", "/guide"),
        ("index.md#a-part", "/guide#a-part"),
        ("#a-part", "#a-part"),
        ("/docs", "/docs"),
        ("https://example.com/x.md", "https://example.com/x.md"),
    ],
)
def test_a_link_leads_to_a_page_that_is_served(link: str, address: str) -> None:
    assert body(f"See [the text]({link}).") == f'<p>See <a href="{address}">the text</a>.</p>\n'


@pytest.mark.parametrize(
    ("link", "shown"),
    [
        ("[the *deployment* guide](../../deploy/README.md)", "the <em>deployment</em> guide (<code>deploy/README.md</code>)"),
        ("[TLS](../../deploy/README.md#tls)", "TLS (<code>deploy/README.md#tls</code>)"),
        ("[deploy/grafana](../../deploy/grafana)", "<code>deploy/grafana</code>"),
        ("[`README.md`](../README.md)", "<code>webhookd/README.md</code>"),
        ("[a page that is not listed](draft.md)", "a page that is not listed (<code>webhookd/guide/draft.md</code>)"),
    ],
)
def test_a_link_that_leaves_the_guide_is_a_path_in_the_repository(link: str, shown: str) -> None:
    assert body(f"See {link}, and [this](handlers.md).") == f'<p>See {shown}, and <a href="/guide/handlers">this</a>.</p>\n'


def test_a_script_is_no_link() -> None:
    assert "<a" not in body("[x](javascript:alert(1))")


def test_comments_are_not_shown_except_in_code() -> None:
    source = (
        "<!-- settings -->\n| a | b |\n|---|---|\n| 1 | 2 |\n<!-- /settings -->\n\n"
        "before <!-- inline --> after\n\n<!--\nlong\n\nhidden\n-->\n\n```html\n<!-- kept -->\n```\n"
    )
    article = render(source, PAGES)
    assert "<p>before  after</p>" in article.body
    assert "&lt;!-- kept --&gt;" in article.body
    for gone in ("settings", "inline", "long", "hidden"):
        assert gone not in article.body
        assert all(gone not in section.text for section in article.sections)
    assert "<td>2</td>" in article.body


def test_raw_html_and_images_become_text() -> None:
    made = body('<script src="//evil.example/x.js"></script>\n\na <b onclick="x()">bold</b> ![the chart](chart.svg)\n')
    assert "<p>&lt;script src=&quot;//evil.example/x.js&quot;&gt;&lt;/script&gt;</p>" in made
    assert "a &lt;b onclick=&quot;x()&quot;&gt;bold&lt;/b&gt; the chart" in made
    assert re.findall(r"<(\w+)", made) == ["p", "p"]


def test_the_search_has_a_section_for_each_heading_and_for_each_row_that_begins_with_a_name() -> None:
    table = "| name | text |\n|---|---|\n| `PORT` | of `TCP` |\n| no name | x |\n"
    source = f"# Top\nOne *two*\nthree.\n## Part\n{table}\nAfter.\n```\ncode\n```\n"
    found = [(part.anchor, part.heading, part.level, part.text) for part in render(source, PAGES).sections]
    assert found == [
        ("top", "Top", 1, "One two three."),
        ("part", "Part", 2, "name text no name x After. code"),
        ("port", "PORT", 0, "of TCP"),
    ]


def test_a_row_never_takes_the_id_of_a_heading_below() -> None:
    made = body("| a |\n|---|\n| `Port` |\n\n## Port\n")
    assert '<tr id="port-1">' in made
    assert '<h2 id="port">' in made


def test_the_lists_of_the_index_give_the_order_the_titles_and_the_groups() -> None:
    source = (
        "# Guide\nFirst [read this](last.md).\n\n- [The `start`](start.md): begin here; [a part](other.md#part)\n\n"
        "## Run\n\n1. [Other](other.md)\n2. [Last](./last.md)\n- [outside](../README.md), [again](start.md)\n"
    )
    assert listed(source) == {
        "start": Entry("The start", ""),
        "other": Entry("Other", "Run"),
        "last": Entry("Last", "Run"),
    }


async def test_each_page_has_the_navigation_and_links_to_its_neighbours(tmp_path: Path) -> None:
    pages = small(
        tmp_path,
        index="# Start\n- [A & B](a.md)\n- [Last](last.md)\n",
        a="# Page A\n## One <two>\n",
        last="# Last\n",
        secret="# Not listed\n",
    )
    start, middle, end = await texts(pages, "/guide", "/guide/a", "/guide/last")
    assert '<a rel="next" href="/guide/a">A &amp; B</a>' in start
    assert 'rel="prev"' not in start
    assert '<a rel="prev" href="/guide">Start</a>' in middle
    assert '<a rel="next" href="/guide/last">Last</a>' in middle
    assert 'rel="next"' not in end
    assert "<title>A &amp; B \u2013 webhookd</title>" in middle
    assert '<a href="/guide/a" aria-current="page">A &amp; B</a>' in middle
    assert '<a href="#one-two">One &lt;two&gt;</a>' in middle
    assert (await served(pages, "/guide/secret")).status == 404


@pytest.mark.parametrize(
    "path",
    ["/guide/nothing", "/guide/index.md", "/guide/../app.py", "/guide/..%2fadmin%2fapp.py", "/guide//etc/passwd", "/guide/%00"],
)
async def test_what_is_no_page_is_a_problem(tmp_path: Path, path: str) -> None:
    answer = await served(small(tmp_path, index="# Start\n"), path)
    assert (answer.status, answer.content_type) == (404, "application/problem+json")
    assert "/guide lists the pages" in str(answer.text)


async def test_the_pages_are_rendered_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Path] = []

    def count(folder: Path) -> Any:
        built.append(folder)
        return build(folder)

    monkeypatch.setattr(guide, "build", count)
    pages = small(tmp_path, index="# Start\n")
    answers = await asyncio.gather(*(served(pages, "/guide") for _ in range(5)))
    assert {answer.status for answer in answers} == {200}
    assert built == [tmp_path]


def test_the_start_of_the_daemon_does_not_wait_for_the_markdown_parser() -> None:
    code = "import sys, webhookd.daemon; sys.exit('markdown_it' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


async def test_every_page_of_the_guide_is_listed_and_served_and_every_link_in_it_leads_to_an_id() -> None:
    pages = Guide()
    names = listed((FOLDER / "index.md").read_text())
    assert {"index", *names} == {file.stem for file in FOLDER.glob("*.md")}
    paths = ["/guide", *(f"/guide/{name}" for name in names)]
    found = {path: Links(text) for path, text in zip(paths, await texts(pages, *paths), strict=True)}
    wrong = []
    for path, page in found.items():
        assert page.forbidden == [], path
        assert len(page.ids) == len(set(page.ids)), path
        for link in page.links:
            target, _, anchor = link.partition("#")
            if target.startswith(("https://", "/docs")) or link == "/":
                continue
            other = found.get(target or path)
            if other is None or (anchor and anchor not in other.ids):
                wrong.append(f"{path}: {link}")
    assert wrong == []
    for section in orjson.loads((await texts(pages, "/guide/search.json"))[0]):
        path, _, anchor = section["address"].partition("#")
        assert not anchor or anchor in found[path].ids, section["address"]


def test_no_table_has_a_column_without_a_name() -> None:
    pages = {page.name: body(page.read_text()) for page in FOLDER.glob("*.md")}
    assert [name for name, text in pages.items() if re.search(r"<th[^>]*>\s*</th>", text)] == []


async def test_every_address_of_the_guide_that_the_program_or_an_alert_names_leads_to_an_id() -> None:
    files = [file for pattern in ("*.py", "*.js") for file in (ROOT / "webhookd").rglob(pattern)]
    files += (ROOT / "deploy" / "prometheus").glob("*.yml")
    named = {one for file in files for one in re.findall(r"/guide/[a-z-]+(?:#[a-z0-9-]+)?(?![\w./{])", file.read_text())}
    assert {"/guide/databases", "/guide/runbook-queue#webhookdsqsdown", "/guide/runbook-replicas#webhookddown"} <= named
    pages = Guide()
    for address in named:
        path, _, anchor = address.partition("#")
        page = await served(pages, path)
        assert page.status == 200, address
        assert not anchor or anchor in Links(str(page.text)).ids, address


def test_a_link_to_the_glossary_leads_to_the_section_that_has_the_word() -> None:
    sections = re.findall(r"^## (.+)\n((?:.*\n)*?)(?=^## |\Z)", (FOLDER / "glossary.md").read_text(), re.MULTILINE)
    words = {anchor_of(title): re.findall(r"\*\*(.+?)\*\*", text) for title, text in sections}
    for name in ("get-started", "how-it-works"):
        found = re.findall(r"\[([^\]]+)\]\(glossary\.md#([^)]+)\)", (FOLDER / f"{name}.md").read_text())
        assert len(found) > 5
        assert len(found) == len(set(found)), "at the first use only"
        for text, section in found:
            # A plural or another form begins as the word does: "folds", "quarantined".
            assert any(text.lower().startswith(word.lower().rstrip("e")) for word in words[section]), f"{name}: {text}"


def test_every_path_outside_the_guide_that_a_page_names_is_in_the_repository() -> None:
    anchors: dict[Path, set[str]] = {}
    wrong = []
    for page in FOLDER.glob("*.md"):
        for link in re.findall(r"\]\((\.\./[^)\s]+)\)", page.read_text()):
            name, _, anchor = link.partition("#")
            file = (FOLDER / name).resolve()
            if anchor and file not in anchors and file.is_file():
                anchors[file] = {section.anchor for section in render(file.read_text(), ()).sections}
            if not file.is_relative_to(ROOT) or not file.exists() or (anchor and anchor not in anchors.get(file, ())):
                wrong.append(f"{page.name}: {link}")
    assert wrong == []


def test_the_simulators_page_says_when_webhookd_takes_an_event_that_nobody_got() -> None:
    text = " ".join((FOLDER / "simulate.md").read_text().split())
    told = text.partition('"withheld": true')[2]
    minutes = Settings.model_fields["gap_grace"].default / 60
    assert f"older than `WEBHOOKD_GAP_GRACE`, which is {minutes:.0f} minutes unless set" in told
    assert "`webhookd dev` has two seconds for both" in told
    assert TIMING == {"gap_every": 2, "gap_grace": 2}
