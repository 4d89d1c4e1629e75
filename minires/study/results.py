"""What a study returns: the mapping that ``results.json`` holds, which shows itself."""

from __future__ import annotations

from html import escape
from pathlib import Path

from minires import markup
from minires.study import figures, tables
from minires.study.store import Results
from minires.texttable import text_table


class StudyResults(Results):
    """The results of a study, a dict: ``results["runs"]`` has every number of every epoch.

    ``print`` shows the table of final errors; a notebook also the figures, and a link to the
    report.

    Attributes:
        folder: where the study's files are.
    """

    def __init__(self, results: Results, folder: Path) -> None:
        super().__init__(results)
        self.folder = folder

    @property
    def report(self) -> Path:
        """The report of the study, a page."""
        return self.folder / "report.html"

    def _table(self) -> tuple[list[str], list[list[str]]]:
        """Heads and rows: a row for each depth and kind."""
        heads = ["kind", "depth", "parameters", "training error %", "test error %"]
        rows = []
        for row in tables.rows(self):
            errors = [
                tables.percent(row[key], row["seeds"]) for key in ("train_error", "test_error")
            ]
            rows.append([row["kind"], str(row["depth"]), f"{row['parameters']:,}", *errors])
        return heads, rows

    def _headline(self) -> list[str]:
        lines = [tables.title(self), *tables.findings(self)]
        waiting = tables.unfinished(self)
        return [*lines, f"Not finished: {', '.join(waiting)}."] if waiting else lines

    def __repr__(self) -> str:
        parts = ["\n".join(self._headline())]
        if self["runs"]:
            parts.append(text_table(*self._table(), left=1))
        return "\n\n".join([*parts, f"Report: {self.report}"])

    def _repr_html_(self) -> str:
        title, *lines = self._headline()
        text = "".join(f"<p>{escape(line)}</p>" for line in lines)
        table = markup.table(*self._table()) if self["runs"] else ""
        drawn = "".join(
            markup.details(
                escape(name.replace("_", " ")),
                markup.picture(figures.render(self, name, "svg", narrow=True), name),
                is_open=name == "error_by_depth",
            )
            for name in figures.FIGURES
        )
        link = f'<a href="{escape(self.report.as_posix())}">{escape(str(self.report))}</a>'
        return f"<h4>{escape(title)}</h4>{text}{table}{drawn}<p>Report: {link}</p>"
