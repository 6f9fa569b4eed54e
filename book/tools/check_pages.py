"""Open every page of the built book in headless Chromium and report what a reader would stumble
over.

    python book/tools/check_pages.py                       check _build/html
    python book/tools/check_pages.py --screenshots DIR     and take pictures

On screens of 1280 and 390 pixels, light and dark, and on paper: TeX that MathJax rejects or never
sees, raw TeX or MyST, broken pictures, console errors, requests to the network, dead links, pages
wider than their window, formulas that are cut, code lines that are clipped, and what axe-core finds
(WCAG 2.1 A and AA). Every chapter offers its own notebook; the search finds Danskin.

Code lines that are clipped at 1280 pixels are counted against ``clipped.json`` beside this file: a
page may have no more than that, and ``--write`` lowers it to what was found.

Playwright (``pip install playwright``) drives the Chromium that is installed: found on the PATH, or
named by the variable CHROMIUM. It downloads nothing.
"""

import argparse
import importlib.util
import json
import os
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import yaml
from links import Anchors, dead_links, files_of_toc, wrong_download, wrong_head
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
LOCAL = {"file", "data", "blob", "about"}
WIDE, PHONE, PAPER = 1280, 390, 718  # A4 less its margins, in CSS pixels
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa")
AXE = """only => axe.run({exclude: ['mjx-container', '[data-unweighed]']},
                {runOnly: only, resultTypes: ['violations'], preload: false})"""


def program() -> str:
    """The path of the Chromium that is installed."""
    names = filter(None, [os.environ.get("CHROMIUM", ""), *NAMES])
    found = next((path for path in map(shutil.which, names) if path), None)
    return found or sys.exit("check_pages.py: no Chromium here; install it, or set CHROMIUM")


def axe_script() -> str:
    """axe-core, as the package axe-playwright-python ships it."""
    spec = importlib.util.find_spec("axe_playwright_python")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("check_pages.py: axe-core is missing: pip install axe-playwright-python")
    return (Path(spec.submodule_search_locations[0]) / "axe.min.js").read_text(encoding="utf-8")


# What fades in is looked at when it is there.
STILL = "*, *::before, *::after { animation: none !important; transition: none !important }"


@dataclass
class Tab:
    """A page of the book, open in a tab of its own, and what the browser had to say of it."""

    page: Page
    complaints: list[str] = field(default_factory=list)

    @classmethod
    def open(cls, browser: Browser, url: str, scripts: tuple[str, ...] = ()) -> "Tab":
        """Open, wait until MathJax is done, and bring the scripts in."""
        tab = cls(
            browser.new_page(viewport={"width": WIDE, "height": 900}, reduced_motion="reduce")
        )
        say = tab.complaints.append
        tab.page.on("pageerror", lambda error: say(f"uncaught: {str(error)[:200]}"))
        tab.page.on("console", lambda m: m.type == "error" and say(f"console: {m.text[:200]}"))
        tab.page.on("requestfailed", lambda r: say(f"did not load ({r.failure}): {r.url}"))
        tab.page.on("request", lambda r: tab.requested(r.url))
        tab.page.goto(url)
        tab.page.add_style_tag(content=STILL)
        for script in scripts:
            tab.page.evaluate(script)
        return tab

    def requested(self, url: str) -> None:
        """Note a request that leaves this machine."""
        if urlsplit(url).scheme not in LOCAL:
            self.complaints.append(f"request to the network: {url}")

    def look(self, *names: str) -> list[str]:
        """What some of the functions of look.js find."""
        return [found for name in names for found in self.page.evaluate(f"look.{name}()")]

    def show(self, width: int, scheme: str = "light", media: str = "screen") -> None:
        """Change the window's width, the reader's colour scheme, or to paper."""
        self.page.set_viewport_size({"width": width, "height": 900})
        self.page.emulate_media(color_scheme=scheme, media=media)  # type: ignore[arg-type]
        self.page.wait_for_function(f"document.documentElement.dataset.theme === '{scheme}'")

    def axe(self, rules: tuple[str, ...], where: str) -> list[str]:
        """Violations that axe-core finds in the page as it stands, formulas apart."""
        found = []
        for rule in self.page.evaluate(AXE, rules)["violations"]:
            for node in rule["nodes"]:
                why = node["any"][0]["message"] if node["any"] else rule["help"]
                found.append(f"axe, {where}: {rule['id']}: {why} in {node['html'][:120]}")
        return found


def examined(tab: Tab) -> tuple[list[str], list[str]]:
    """Findings in the page, and its clipped code lines: wide, dark, on a phone and on paper."""
    found = tab.look(
        "ready", "sample", "unfold", "formulae", "text", "pictures", "links", "wide", "cut"
    )
    clipped = tab.look("clipped")
    found += tab.axe(RULES, "light")
    tab.show(WIDE, "dark")
    found += tab.axe(("color-contrast",), "dark")
    tab.show(PHONE)
    found += tab.look("wide", "cut")
    tab.show(PAPER, "dark", "print")
    found += [f"on paper: {text}" for text in tab.look("wide", "cut", "clipped", "paper")]
    return list(dict.fromkeys(found + tab.complaints)), clipped


def take_pictures(browser: Browser, url: str, stem: Path) -> None:
    """The page as it opens: light and dark, wide and as on a phone."""
    tab = Tab.open(browser, url, ("window.MathJax?.startup?.promise",))
    for width in (WIDE, PHONE):
        for scheme in ("light", "dark"):
            tab.show(width, scheme)
            path = stem.with_name(f"{stem.name}-{width}-{scheme}.png")
            tab.page.screenshot(path=path, full_page=True)
    tab.page.close()


def searched(browser: Browser, book: Path, word: str) -> list[str]:
    """The search page, opened with a word, must list results."""
    tab = Tab.open(browser, (book / "search.html").as_uri() + f"?q={word}")
    results = tab.page.locator("#search-results ul.search li")
    for _ in range(75):
        if results.count():
            break
        tab.page.wait_for_timeout(200)
    print(f"search for {word}: {results.count()} results", flush=True)
    nothing = [] if results.count() else [f"the search for {word} finds nothing"]
    return tab.complaints + nothing


def too_many(name: str, clipped: list[str], known: dict[str, int]) -> list[str]:
    """Clipped code lines beyond those that are known, and a word where there are fewer."""
    if len(clipped) > known.get(name, 0):
        return [f"{len(clipped)} boxes of code clipped, {known.get(name, 0)} known", *clipped]
    if len(clipped) < known.get(name, 0):
        print(f"      {len(clipped)} clipped, {known[name]} known: lower it with --write")
    return []


def built(root: Path) -> dict[Path, Anchors]:
    """Every page of the built book, those of the table of contents first."""
    book = root / "_build" / "html"
    names = files_of_toc(yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8")))
    paths = {path.resolve() for path in book.rglob("*.html") if "_static" not in path.parts}
    wanted = [(book / f"{name}.html").resolve() for name in names]
    missing = [path for path in wanted if path not in paths]
    if not wanted or missing:
        said = ", ".join(map(str, missing)) or "everything"
        sys.exit(f"check_pages.py: build the book first; missing: {said}")
    ordered = wanted + sorted(paths - set(wanted))
    return {path: Anchors(path.read_text(encoding="utf-8")) for path in ordered}


def checked(browser: Browser, root: Path, options: argparse.Namespace) -> int:
    """Every page in turn; returns the number of findings."""
    book, pages = (root / "_build" / "html").resolve(), built(root)
    known_path = HERE / "clipped.json"
    known = json.loads(known_path.read_text()) if known_path.exists() else {}
    scripts, total = ((HERE / "look.js").read_text("utf-8"), axe_script()), 0
    counts: dict[str, int] = {}
    for number, (page, anchors) in enumerate(pages.items(), 1):
        start, name = time.perf_counter(), page.relative_to(book).with_suffix("").as_posix()
        if options.pages and not any(text in name for text in options.pages):
            continue
        found = dead_links(page, pages) + wrong_download(page, book, root, anchors.links)
        if anchors.redirect is None:  # index.html only leads to the first page
            tab = Tab.open(browser, page.as_uri(), scripts)
            more, clipped = examined(tab)
            tab.page.close()
            found += wrong_head(page, anchors) + more
            found += [] if options.write else too_many(name, clipped, known)
            counts |= {name: len(clipped)} if clipped else {}
        if options.screenshots and anchors.redirect is None:
            stem = options.screenshots / name.replace("/", "-")
            take_pictures(browser, page.as_uri(), stem)
        verdict = f"{len(found)} findings" if found else "fine"
        took = time.perf_counter() - start
        print(f"[{number}/{len(pages)}] {name}: {verdict}, {took:.1f} s", flush=True)
        print("".join(f"      {finding}\n" for finding in found), end="", flush=True)
        total += len(found)
    found = searched(browser, book, options.word)
    print("".join(f"      {finding}\n" for finding in found), end="")
    if options.write:
        known_path.write_text(json.dumps(counts, indent=2) + "\n")
    print(f"{len(pages)} pages opened, {total + len(found)} findings")
    return total + len(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("pages", nargs="*", help="only pages whose name contains one of these; none means all")
    add("--root", type=Path, default=ROOT, help="the book's sources (default: this repository)")
    add("--screenshots", type=Path, metavar="DIR", help="take full-page pictures into this folder")
    add("--word", default="Danskin", help="what the search must find")
    add("--write", action="store_true", help="take the clipped lines found as the known ones")
    options = parser.parse_args()
    if options.screenshots:
        options.screenshots.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
        browser = playwright.chromium.launch(executable_path=program(), args=flags)
        total = checked(browser, options.root.resolve(), options)
        browser.close()
    sys.exit(1 if total else 0)


if __name__ == "__main__":
    main()
