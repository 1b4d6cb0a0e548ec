"""Adds the laboratory's pages and notebooks to the documentation: a hook for mkdocs that replaces two plug-ins.

It shows the outputs stored in the notebook and executes nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of `lab/docs`, and a Markdown page for each notebook, next to the notebook itself."""
    lab = Path(config.config_file_path).parent / "lab" / "docs"
    for path in sorted(lab.rglob("*")):
        if path.is_file():
            place = path.relative_to(lab).as_posix()
            files.append(File(place, str(lab), config.site_dir, config.use_directory_urls))
    for file in [each for each in files if each.src_uri.endswith(".ipynb")]:
        text = Path(str(file.abs_src_path)).read_text(encoding="utf-8")
        name = Path(file.src_uri).name
        page = f"{markdown(json.loads(text))}\n\n[Download this notebook]({name})\n"
        files.append(File.generated(config, file.src_uri.replace(".ipynb", ".md"), content=page))
    return files


def markdown(notebook: dict[str, Any]) -> str:
    """Convert a notebook to Markdown: its text, its code and its stored outputs."""
    parts: list[str] = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        parts.extend(filter(None, map(_output, cell["outputs"])))
    return "\n\n".join(parts)


def _output(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        return f'<img alt="What the code draws" src="data:image/png;base64,{"".join(data["image/png"]).strip()}">'
    if "text/html" in data:
        # without empty lines, which would end the HTML
        html = "".join(data["text/html"])
        return f'<div style="overflow-x: auto">{" ".join(html.split())}</div>'
    text = "".join(output.get("text", data.get("text/plain", "")))
    return f"```text\n{text.rstrip()}\n```" if text.strip() else ""
