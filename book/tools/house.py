"""The book's own small Sphinx extension.

- No address, no buttons: while ``repository.url`` in _config.yml is empty, the theme's launch buttons are switched
  off (with buttons and no address the theme stops the build).
- No live cells: Jupyter Book always adds sphinx-thebe, and adds its script twice, which is an error in the browser's
  console. Its one use would be to load code from the network, so it is disconnected.
"""

from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config


def only_with_an_address(app: Sphinx, config: Config) -> None:
    options = config.html_theme_options
    if not options.get("repository_url"):
        for name in ("launch_buttons", "repository_url", "repository_branch", "path_to_docs"):
            options.pop(name, None)


def without_live_cells(app: Sphinx, config: Config) -> None:
    for listeners in list(app.events.listeners.values()):
        for listener in list(listeners):
            module, name = (getattr(listener.handler, key, "") for key in ("__module__", "__name__"))
            if module.split(".")[0] == "sphinx_thebe" and name != "st_static_path":  # its style sheet is asked for
                app.disconnect(listener.id)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("config-inited", only_with_an_address, priority=1)
    app.connect("config-inited", without_live_cells, priority=1)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
