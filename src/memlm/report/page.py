"""A report as one HTML page that needs nothing else: no script, no network, figures and style inside."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from memlm.experiment.compare import compare
from memlm.experiment.reading import read_experiment
from memlm.report.claims import mark, sentence
from memlm.report.content import Content, content
from memlm.report.findings import render
from memlm.report.markdown import markdown
from memlm.storage import write_text


def write_report(folder: Path) -> tuple[Path, Path]:
    """Writes ``report.html`` and ``report.md`` into an experiment's folder and returns their paths.

    ``findings.md`` is made from a template if it is not there, and otherwise only read.

    Raises:
        RunError: the folder holds no experiment, or a file in it is broken.
    """
    gathered = content(compare(read_experiment(folder)))
    page, text = folder / "report.html", folder / "report.md"
    write_text(page, html(gathered))
    write_text(text, markdown(gathered))
    return page, text


def html(gathered: Content) -> str:
    """Returns the report as the text of ``report.html``."""
    environment = Environment(
        loader=PackageLoader("memlm", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"svg": Markup, "sentence": sentence, "mark": mark, "rendered": render}
    return environment.get_template("page.html.jinja").render(content=gathered)
