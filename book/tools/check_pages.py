"""Open every page of the built book in headless Chromium and report what a reader would stumble
over.

    python book/tools/check_pages.py                       check _build/html python
    book/tools/check_pages.py --screenshots DIR     and take pictures: light and dark, 1280 and 390
    pixels wide

Per page: TeX that MathJax rejects or never sees, a raw `$` or `\\(` in the text, broken pictures,
console errors and uncaught exceptions, files that do not load, requests to the network, dead links
inside the book, text wider than a phone. Per chapter: the download button gives the very notebook.
For the book: every page of the table of contents is there, and the search finds Danskin.

Chromium is driven over a pipe in its own DevTools protocol, so nothing but Chromium is needed: from
the PATH, or from the variable CHROMIUM.
"""

import argparse
import base64
import fcntl
import html.parser
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

ROOT = Path(__file__).resolve().parents[2]
LOCAL = {"file", "data", "blob", "about"}
WIDE, PHONE = 1280, 390
PIECE = 2400  # height of a screenshot

# What is looked for in a page, once MathJax has finished. Returns a list of findings.
LOOK = r"""
(async () => {
  const found = [];
  const short = text => text.trim().replace(/\s+/g, ' ').slice(0, 90);
  if (document.readyState !== 'complete') await new Promise(done => addEventListener('load', done));
  const formulae = [...document.querySelectorAll('.math')];
  if (formulae.length && !(window.MathJax && MathJax.startup && MathJax.startup.promise))
    found.push('MathJax did not load');
  else if (formulae.length) await MathJax.startup.promise;
  for (const node of document.querySelectorAll('mjx-merror, [data-mjx-error], .MathJax_Error'))
    if (!node.parentElement.closest('mjx-merror, [data-mjx-error]'))
      found.push('TeX error: ' + (node.getAttribute('data-mjx-error') || node.title || short(node.textContent))
        + ' in: ' + short(node.closest('.math')?.textContent ?? ''));
  for (const node of formulae)
    if (!node.querySelector('mjx-container')) found.push('formula not typeset: ' + short(node.textContent));
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    if (node.parentElement.closest('code, pre, script, style, noscript, template, textarea, mjx-container')) continue;
    if (/\$|\\[()\[\]]|\\begin\{|\\[a-zA-Z]{2,}/.test(node.data)) found.push('raw TeX in the text: ' + short(node.data));
    if (/(^|\s)\{[a-z:]+\}`|^:{3,}/m.test(node.data)) found.push('raw MyST in the text: ' + short(node.data));
  }
  for (const image of document.images) {
    image.loading = 'eager';
    if (!image.complete)
      await Promise.race([new Promise(done => { image.onload = image.onerror = done; }),
                          new Promise(done => setTimeout(done, 5000))]);
    if (!image.naturalWidth) found.push('broken picture: ' + image.getAttribute('src'));
    if (image.closest('article') && !image.alt.trim()) found.push('picture without alt text: ' + image.getAttribute('src'));
  }
  return found;
})()
"""
OVERFLOW = r"""
(() => {
  const page = document.scrollingElement, width = innerWidth;
  if (page.scrollWidth <= width + 1) return [];
  const wide = [...document.querySelectorAll('article *')].filter(node => node.getBoundingClientRect().right > width + 1)
    .filter(node => { for (let up = node.parentElement; up && up.tagName !== 'ARTICLE'; up = up.parentElement)
      if (getComputedStyle(up).overflowX !== 'visible') return false; return true; });
  const name = wide.length ? wide[0].tagName.toLowerCase() + '.' + wide[0].className + ' '
    + wide[0].textContent.trim().replace(/\s+/g, ' ').slice(0, 60) : 'outside the article';
  return [`${page.scrollWidth} pixels wide on a phone of ${width}: ${name}`];
})()
"""
RESULTS = "document.querySelectorAll('#search-results ul.search li').length"


class Chromium:
    """One headless Chromium with one tab at a time, spoken to in the DevTools protocol over a pipe."""

    def __init__(self) -> None:
        names = [
            os.environ.get("CHROMIUM", ""),
            "chromium",
            "chromium-browser",
            "google-chrome",
            "google-chrome-stable",
        ]
        program = next((path for path in map(shutil.which, filter(None, names)) if path), None)
        if program is None:
            sys.exit("check_pages.py: no Chromium here; install it, or set CHROMIUM to its path")
        self.profile = tempfile.TemporaryDirectory(
            prefix="check-pages-", ignore_cleanup_errors=True
        )
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        # Chromium reads descriptor 3 and writes descriptor 4; move ours out of their way first.
        theirs = [
            fcntl.fcntl(descriptor, fcntl.F_DUPFD, 20) for descriptor in (theirs_in, theirs_out)
        ]
        os.close(theirs_in), os.close(theirs_out)
        self.ours_in, self.ours_out = (
            fcntl.fcntl(d, fcntl.F_DUPFD_CLOEXEC, 20) for d in (ours_in, ours_out)
        )
        os.close(ours_in), os.close(ours_out)
        self.process = subprocess.Popen(
            [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
             "--hide-scrollbars", "--disable-extensions", "--disable-background-networking",
             "--remote-debugging-pipe", f"--user-data-dir={self.profile.name}", "about:blank"],
            preexec_fn=lambda: (os.dup2(theirs[0], 3), os.dup2(theirs[1], 4)),
            pass_fds=(3, 4), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for descriptor in theirs:
            os.close(descriptor)
        self.buffer, self.number, self.events = b"", 0, []
        self.session: str | None = None
        self.target: str | None = None

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=30)
        self.profile.cleanup()

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """The next message, or None if there is none in time."""
        deadline = time.monotonic() + seconds
        while b"\0" not in self.buffer:
            ready, _, _ = select.select(
                [self.ours_in], [], [], max(0.0, deadline - time.monotonic())
            )
            if not ready:
                return None
            chunk = os.read(self.ours_in, 1 << 20)
            if not chunk:
                raise RuntimeError("Chromium went away")
            self.buffer += chunk
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command and its answer; the events that arrive meanwhile are kept."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.ours_out, data) :]
        while True:
            answer = self.receive(60)
            if answer is None:
                raise RuntimeError(f"Chromium did not answer {method} within a minute")
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            if "method" in answer and answer.get("sessionId") == self.session:
                self.events.append(answer)

    def evaluate(self, script: str) -> Any:
        """The value of a script in the page."""
        answer = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(f"the check itself failed: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def show(self, width: int, dark: bool = False, height: int = 900) -> None:
        """The window's size and the reader's colour scheme."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, url: str, width: int = WIDE) -> None:
        """Open a page in a fresh tab and wait until it is loaded."""
        old, self.session = self.target, None
        self.target = self.call("Target.createTarget", url="about:blank")["targetId"]
        if old:
            self.call("Target.closeTarget", targetId=old)
        self.session = self.call("Target.attachToTarget", targetId=self.target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.show(width)
        self.events.clear()
        answer = self.call("Page.navigate", url=url)
        if answer.get("errorText"):
            raise RuntimeError(f"{url}: {answer['errorText']}")
        deadline = time.monotonic() + 60
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            event = self.receive(max(0.0, deadline - time.monotonic()))
            if event is None:
                raise RuntimeError(f"{url} did not load within a minute")
            if "method" in event and event.get("sessionId") == self.session:
                self.events.append(event)

    def complaints(self, settle: float = 0.3) -> list[str]:
        """What the browser itself had to say since the page was opened."""
        while (event := self.receive(settle)) is not None:
            if "method" in event and event.get("sessionId") == self.session:
                self.events.append(event)
        found, urls = [], {}
        for event in self.events:
            method, data = event["method"], event["params"]
            if method in ("Network.requestWillBeSent", "Network.webSocketCreated"):
                url = data["request"]["url"] if "request" in data else data["url"]
                urls[data["requestId"]] = url
                if urlsplit(url).scheme not in LOCAL:
                    found.append(f"request to the network: {url}")
            elif method == "Network.loadingFailed" and not data.get("canceled"):
                found.append(
                    f"did not load ({data['errorText']}): {urls.get(data['requestId'], '?')}"
                )
            elif method == "Runtime.exceptionThrown":
                details = data["exceptionDetails"]
                found.append(
                    f"uncaught: {details.get('exception', {}).get('description', details['text'])[:200]}"
                )
            elif method == "Runtime.consoleAPICalled" and data["type"] in ("error", "assert"):
                text = " ".join(str(a.get("value", a.get("description", ""))) for a in data["args"])
                found.append(f"console error: {text[:200]}")
            elif method == "Log.entryAdded" and data["entry"]["level"] == "error":
                found.append(
                    f"console error: {data['entry']['text'][:160]} {data['entry'].get('url', '')}"
                )
        return found

    def picture(self, target: Path, width: int, dark: bool) -> None:
        """The whole page, from top to bottom, in pieces."""
        self.show(width, dark)
        time.sleep(0.3)
        height = int(self.evaluate("Math.ceil(document.documentElement.scrollHeight)"))
        for number, top in enumerate(range(0, height, PIECE), 1):
            clip = {
                "x": 0,
                "y": top,
                "width": width,
                "height": min(PIECE, height - top),
                "scale": 1,
            }
            data = self.call(
                "Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True
            )["data"]
            target.with_stem(f"{target.stem}-{number}").write_bytes(base64.b64decode(data))


class Anchors(html.parser.HTMLParser):
    """The ids and the links of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.redirect: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "meta" and (dict(attrs).get("http-equiv") or "").lower() == "refresh":
            self.redirect = (dict(attrs).get("content") or "").partition("url=")[2]
        for key, value in attrs:
            if value and (key == "id" or (key == "name" and tag == "a")):
                self.ids.add(value)
            if value and key == "href" and tag == "a":
                self.links.add(value)
        if self.redirect:
            self.links.add(self.redirect)


def files_of_toc(node: Any) -> list[str]:
    """Every document that _toc.yml names, in order."""
    if isinstance(node, list):
        return [name for item in node for name in files_of_toc(item)]
    if not isinstance(node, dict):
        return []
    own = [node[key] for key in ("root", "file") if key in node]
    return own + [
        name for key in ("parts", "chapters", "sections") for name in files_of_toc(node.get(key))
    ]


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
        elif (
            parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids
        ):
            found.append(f"dead anchor: {link}")
    return found


def wrong_download(page: Path, book: Path, root: Path, links: set[str]) -> list[str]:
    """A chapter must offer its own notebook, byte for byte."""
    name = page.relative_to(book).with_suffix(".ipynb")
    source = root / name
    if not source.exists():
        return []
    offered = [link for link in links if link.endswith(".ipynb") and not urlsplit(link).scheme]
    if [(page.parent / unquote(link)).resolve() for link in offered] != [
        (book / "_sources" / name).resolve()
    ]:
        return [f"the download button should give {name}, and the page offers {offered}"]
    if (book / "_sources" / name).read_bytes() != source.read_bytes():
        return [f"the notebook that is offered is not {name}"]
    return []


def examined(browser: Chromium, page: Path) -> list[str]:
    """Open a page, wide and as on a phone."""
    browser.open(page.as_uri())
    found = browser.evaluate(LOOK)
    browser.show(PHONE)
    return found + browser.evaluate(OVERFLOW) + browser.complaints()


def take_pictures(browser: Chromium, stem: Path) -> None:
    """The page that is open, light and dark, wide and as on a phone."""
    for width in (WIDE, PHONE):
        for dark in (False, True):
            browser.picture(
                stem.with_name(f"{stem.name}-{width}-{'dark' if dark else 'light'}.png"),
                width,
                dark,
            )


def searched(browser: Chromium, book: Path, word: str) -> list[str]:
    """The search page, opened with a word, must list results."""
    browser.open((book / "search.html").as_uri() + f"?q={word}")
    deadline = time.monotonic() + 15
    while not browser.evaluate(RESULTS) and time.monotonic() < deadline:
        time.sleep(0.2)
    count = browser.evaluate(RESULTS)
    print(f"search for {word}: {count} results", flush=True)
    return browser.complaints() + ([] if count else [f"the search for {word} finds nothing"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--root", type=Path, default=ROOT, help="the book's sources (default: this repository)"
    )
    parser.add_argument(
        "--screenshots", type=Path, metavar="DIR", help="take full-page pictures into this folder"
    )
    parser.add_argument("--word", default="Danskin", help="what the search must find")
    arguments = parser.parse_args()
    root = arguments.root.resolve()
    book = root / "_build" / "html"
    names = files_of_toc(yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8")))
    paths = {path.resolve() for path in book.rglob("*.html") if "_static" not in path.parts}
    wanted = [(book / f"{name}.html").resolve() for name in names]
    missing = [path for path in wanted if path not in paths]
    if not wanted or missing:
        sys.exit(
            f"check_pages.py: build the book first; missing: {', '.join(map(str, missing)) or 'everything'}"
        )
    pages = {
        path: Anchors(path.read_text(encoding="utf-8"))
        for path in wanted + sorted(paths - set(wanted))
    }
    if arguments.screenshots:
        arguments.screenshots.mkdir(parents=True, exist_ok=True)

    total = 0
    browser = Chromium()
    try:
        for number, page in enumerate(pages, 1):
            start, name = time.perf_counter(), page.relative_to(book)
            # index.html only leads to the first page: its link is checked, and that page is opened
            # itself
            found = examined(browser, page) if pages[page].redirect is None else []
            if arguments.screenshots and page in wanted:
                take_pictures(browser, arguments.screenshots / "-".join(name.with_suffix("").parts))
            found += dead_links(page, pages) + wrong_download(page, book, root, pages[page].links)
            found = list(dict.fromkeys(found))
            total += len(found)
            verdict = "fine" if not found else f"{len(found)} findings"
            print(
                f"[{number}/{len(pages)}] {name}: {verdict}, {time.perf_counter() - start:.1f} s",
                flush=True,
            )
            for finding in found:
                print(f"      {finding}", flush=True)
        found = searched(browser, book, arguments.word)
        total += len(found)
        for finding in found:
            print(f"      {finding}", flush=True)
    finally:
        browser.close()
    print(f"{len(pages)} pages opened, {total} findings")
    sys.exit(1 if total else 0)


if __name__ == "__main__":
    main()
