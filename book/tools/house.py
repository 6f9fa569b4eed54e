"""The book's own small Sphinx extension.

- No address, no buttons: while ``repository.url`` in _config.yml is empty, the theme's launch
  buttons are switched off (with buttons and no address the theme stops the build).
- No live cells: Jupyter Book always adds sphinx-thebe, and adds its script twice, which is an error
  in the browser's console. Its one use would be to load code from the network, so it is
  disconnected.
- ``speed-table``: the rows of benchmark records, from benchmarks/, as a table; its argument names
  the sections.
"""

import json
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.config import Config

from ddi.bench import GOALS

RECORDS = {
    "CPU, SmallNet": "cpu-SmallNet",
    "CPU, ResNet-18": "cpu-ResNet18",
    "GPU, ResNet-18": "cuda-ResNet18",
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


class SpeedTable(Directive):
    """A row a ratio, a column a record; "not measured" where there is no record. The argument
    ``records`` lists these.
    """

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        folder = Path(self.state.document.settings.env.srcdir) / "benchmarks"
        paths = {column: folder / f"{stem}.json" for column, stem in RECORDS.items()}
        records = {
            column: json.loads(path.read_text()) for column, path in paths.items() if path.exists()
        }
        lines = (
            _provenance(records)
            if self.arguments == ["records"]
            else _table(records, self.arguments[0])
        )
        box = nodes.container(classes=["speed-table"])
        self.state.nested_parse(StringList(lines, source=str(folder)), self.content_offset, box)
        return [box]


def _provenance(records: dict[str, Any]) -> list[str]:
    lines = []
    for column in RECORDS:
        if (record := records.get(column)) is None:
            lines.append(f"- *{column}*: not measured.")
            continue
        source, kernels = record["provenance"], record["kernels"]
        threads = f"{source['threads']} thread" + "s" * (source["threads"] > 1)
        path = (
            f"{kernels['precision']}, compile {kernels['compile']}"
            + ", NHWC" * kernels["channels_last"]
        )
        what = (
            f"batch {record['batch']}, {record['rounds']} rounds, {source['device']}, {threads}, "
        )
        state = "" if record["complete"] else "; **incomplete**"
        lines.append(
            f"- *{column}*: {what}torch {source['torch']}, {path}, commit {str(source['commit'])[:12]}{state}."
        )
    return lines


def _table(records: dict[str, Any], section: str) -> list[str]:
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for column, record in records.items():
        for row in (row for row in record["rows"] if row["section"] == section):
            note = row["note"].split(";")[0]
            cells.setdefault((row["name"], note), {})[column] = _cell(row)
    goals = any(name in GOALS for name, _ in cells)
    head = ["ratio", *(["goal, CPU", "goal, GPU"] if goals else []), *RECORDS]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for (name, note), values in cells.items():
        asked = [
            goal.replace("<=", "≤").replace(">=", "≥") if goal else "–"
            for goal in GOALS.get(name, (None, None))
        ]
        columns = [
            values.get(column, "–" if column in records else "not measured") for column in RECORDS
        ]
        label = name + (f" ({note})" if note and "absent" not in note else "")
        lines.append("| " + " | ".join([label, *(asked if goals else []), *columns]) + " |")
    return lines


def _cell(row: dict[str, Any]) -> str:
    if row["value"] is None:
        return "peer absent"
    limit = f", limit {row['limit']:.3g}" if row["limit"] else ""
    verdict = {None: "", True: " ✓", False: " **missed**"}[row["met"]]
    return f"{row['value']:.3g}{limit}{verdict}"


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("config-inited", only_with_an_address, priority=1)
    app.connect("config-inited", without_live_cells, priority=1)
    app.add_directive("speed-table", SpeedTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
