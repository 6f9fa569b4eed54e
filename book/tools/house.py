"""The book's own small Sphinx extension.

- No address, no buttons: while ``repository.url`` in _config.yml is empty, the theme's launch
  buttons are switched off (with buttons and no address the theme stops the build).
- No live cells: Jupyter Book always adds sphinx-thebe, and adds its script twice, which is an error
  in the browser's console. Its one use would be to load code from the network, so it is
  disconnected.
- A head for search engines and messengers: a description (its first words), and og: tags.
- No link inside the line that opens a fold: it would be two things to press in one.
- ``speed-table``: the rows of benchmark records, from benchmarks/, as a table; its argument names
  the sections. The role ``speed`` is one value: ``{speed}`cpu-SmallNet: name of the row` ``.
"""

import json
import re
from html import escape, unescape
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.parsers.rst.states import Inliner
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx_design.dropdown import dropdown_title

RECORDS = {
    "cpu-SmallNet": "CPU, SmallNet",
    "cpu-ResNet18": "CPU, ResNet-18",
    "cuda-ResNet18": "GPU, ResNet-18",
}


def only_with_an_address(app: Sphinx, config: Config) -> None:
    options = config.html_theme_options
    if not options.get("repository_url"):
        for name in ("launch_buttons", "repository_url", "repository_branch", "path_to_docs"):
            options.pop(name, None)


def without_live_cells(app: Sphinx, config: Config) -> None:
    for listeners in list(app.events.listeners.values()):
        for listener in list(listeners):
            module, name = (
                getattr(listener.handler, key, "") for key in ("__module__", "__name__")
            )
            if (
                module.split(".")[0] == "sphinx_thebe" and name != "st_static_path"
            ):  # its style sheet is asked for
                app.disconnect(listener.id)


def described(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Add the meta tags of a page to its head."""
    text = _first_words(doctree) if doctree is not None else app.config.html_title
    title = unescape(re.sub("<[^>]+>", "", context.get("title") or app.config.html_title))
    tags = {"og:title": title, "og:description": text, "og:type": "article"}
    tags["og:site_name"] = app.config.html_title
    lines = [f'<meta name="description" content="{escape(text)}" />']
    lines += [f'<meta property="{key}" content="{escape(value)}" />' for key, value in tags.items()]
    context["metatags"] = "\n".join([context.get("metatags", ""), *lines])
    # docutils gives the entries of a bibliography a role that ARIA has given up, in a list
    body = context.get("body", "")
    context["body"] = body.replace(' role="doc-biblioentry"', ' role="listitem"')


def _first_words(doctree: nodes.document) -> str:
    """What a chapter's frame promises, or the first paragraph of a page; without formulas."""
    plain = [n for n in doctree.findall(nodes.paragraph) if not any(n.findall(nodes.math))]
    framed = [n for n in plain if isinstance(n.parent, nodes.list_item)]
    framed = [n for n in framed if isinstance(n.parent.parent.parent, nodes.admonition)]
    running = [n for n in plain if isinstance(n.parent, nodes.section)]
    words = "; ".join(n.astext().strip(" .;") for n in framed or running[:1])
    text = " ".join(words.split()) or "A page of this book"
    return text if len(text) <= 200 else text[:200].rpartition(" ")[0] + " …"


def no_links_in_titles(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Leave the words of a link in the title of a fold, and take the link away."""
    for title in list(doctree.findall(dropdown_title)):
        for link in list(title.findall(nodes.reference)):
            link.parent.replace(link, link.children)


class SpeedTable(Directive):
    """A row a ratio, a column a record. The argument ``records`` lists these."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        records = _records(Path(self.state.document.settings.env.srcdir))
        listed = self.arguments == ["records"]
        lines = _provenance(records) if listed else _table(records, self.arguments[0])
        box = nodes.container(classes=["speed-table"])
        self.state.nested_parse(StringList(lines, source="benchmarks"), self.content_offset, box)
        return [box]


def speed(
    name: str, rawtext: str, text: str, lineno: int, inliner: Inliner, *_: Any
) -> tuple[list[nodes.Node], list[nodes.system_message]]:
    """The value of one row of one record, to two digits."""
    stem, _, label = text.partition(": ")
    records = _records(Path(inliner.document.settings.env.srcdir))
    rows = [r for r in records.get(stem, {"rows": []})["rows"] if r["name"] == label and r["value"]]
    if len(rows) != 1:
        text = f"benchmarks/{stem}.json has {len(rows)} measured rows {label!r}"
        message = inliner.reporter.error(text, line=lineno)
        return [inliner.problematic(rawtext, rawtext, message)], [message]
    return [nodes.Text(f"{rows[0]['value']:.2g}")], []


def _records(root: Path) -> dict[str, Any]:
    """The records that there are, by the stem of their file and in the order of the columns."""
    paths = {stem: root / "benchmarks" / f"{stem}.json" for stem in RECORDS}
    return {stem: json.loads(p.read_text("utf-8")) for stem, p in paths.items() if p.exists()}


def _provenance(records: dict[str, Any]) -> list[str]:
    lines = []
    for stem, record in records.items():
        source, kernels = record["provenance"], record["kernels"]
        threads = f"{source['threads']} thread" + "s" * (source["threads"] > 1)
        path = f"{kernels['precision']}, compile {kernels['compile']}"
        path += ", NHWC" * kernels["channels_last"]
        what = f"batch {record['batch']}, {record['rounds']} rounds, {source['device']}, {threads}"
        commit, _, dirty = str(source["commit"]).partition("-")
        made = f"torch {source['torch']}, {path}, commit {commit[:12]}{dirty and '-dirty'}"
        state = "" if record["complete"] else "; **incomplete**"
        lines.append(f"- *{RECORDS[stem]}*: {what}, {made}{state}.")
    return lines


def _table(records: dict[str, Any], section: str) -> list[str]:
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for stem, record in records.items():
        for row in (row for row in record["rows"] if row["section"] == section):
            note = row["note"].split(";")[0]
            cells.setdefault((row["name"], note), {})[stem] = _cell(row)
    head = ["ratio", *(RECORDS[stem] for stem in records)]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for (name, note), values in cells.items():
        label = name + (f" ({note})" if note and "absent" not in note else "")
        columns = [label, *(values.get(stem, "–") for stem in records)]
        lines.append("| " + " | ".join(columns) + " |")
    return lines


def _cell(row: dict[str, Any]) -> str:
    if row["value"] is None:
        return "peer absent"
    limit = f", limit {row['limit']:.3g}" if row["limit"] else ""
    return f"{row['value']:.3g}{limit}"


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("config-inited", only_with_an_address, priority=1)
    app.connect("config-inited", without_live_cells, priority=1)
    app.connect("html-page-context", described)
    app.connect("doctree-resolved", no_links_in_titles, priority=900)
    app.add_directive("speed-table", SpeedTable)
    app.add_role("speed", speed)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
