"""What can be said of the built pages without a browser: links, and the notebooks they offer."""

from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

NEEDED = ("description", "og:title", "og:description", "og:type")


class Anchors(HTMLParser):
    """The ids, the links and the meta tags of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.meta: dict[str, str] = {}
        self.icons: list[str] = []
        self.redirect: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attrs}
        if tag == "meta":
            if given.get("http-equiv", "").lower() == "refresh":
                self.redirect = given.get("content", "").partition("url=")[2]
                self.links.add(self.redirect)
            self.meta[given.get("name") or given.get("property", "")] = given.get("content", "")
        if tag == "link" and "icon" in given.get("rel", "").split():
            self.icons.append(given.get("href", ""))
        if given.get("id"):
            self.ids.add(given["id"])
        if tag == "a" and given.get("name"):
            self.ids.add(given["name"])
        if tag == "a" and given.get("href"):
            self.links.add(given["href"])


def files_of_toc(node: Any) -> list[str]:
    """Every document that _toc.yml names, in order."""
    if isinstance(node, list):
        return [name for item in node for name in files_of_toc(item)]
    if not isinstance(node, dict):
        return []
    own = [node[key] for key in ("root", "file") if key in node]
    inner = [files_of_toc(node.get(key)) for key in ("parts", "chapters", "sections")]
    return own + [name for names in inner for name in names]


def dead_links(page: Path, pages: dict[Path, Anchors]) -> list[str]:
    """Links of a page to files or anchors that are not there."""
    found = []
    for link in sorted(pages[page].links):
        parts = urlsplit(link)
        if parts.scheme or link in ("#", "#!"):
            continue
        target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        if not target.exists():
            found.append(f"dead link: {link}")
        elif parts.fragment and target in pages:
            if unquote(parts.fragment) not in pages[target].ids:
                found.append(f"dead anchor: {link}")
    return found


def wrong_head(page: Path, anchors: Anchors) -> list[str]:
    """What a search engine, a messenger and a browser's tab show."""
    found = [f"no meta tag {key}" for key in NEEDED if not anchors.meta.get(key, "").strip()]
    if len(anchors.icons) != 1 or not (page.parent / anchors.icons[0]).resolve().exists():
        found.append(f"one icon that is there is needed, the page names {anchors.icons}")
    return found


def wrong_download(page: Path, book: Path, root: Path, links: set[str]) -> list[str]:
    """A chapter must offer its own notebook, byte for byte."""
    name = page.relative_to(book).with_suffix(".ipynb")
    source, copied = root / name, (book / "_sources" / name).resolve()
    if not source.exists():
        return []
    offered = [link for link in links if link.endswith(".ipynb") and not urlsplit(link).scheme]
    if [(page.parent / unquote(link)).resolve() for link in offered] != [copied]:
        return [f"the download button should give {name}, and the page offers {offered}"]
    if copied.read_bytes() != source.read_bytes():
        return [f"the notebook that is offered is not {name}"]
    return []
