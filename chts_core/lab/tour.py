"""The tour: every stage notebook, one after the other, then one page and one table to read."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat

from chts_core.lab import notebooks
from chts_core.lab.pages import as_html, document, write_page


def tour(profile: str, out_dir: Path) -> bool:
    """Run all stages at a profile, write their pages and the index, print the table; True if none failed.

    A stage that fails does not stop the others.
    """
    notebooks.check_value("profile", profile)
    records = []
    for path in notebooks.stages():
        print(f"\n{path.stem}: {notebooks.title(path)}", flush=True)
        print(f"  expected to take {notebooks.expected(path, {'profile': profile})}", flush=True)
        record = notebooks.run(path, out_dir, {"profile": profile})
        write_page(out_dir / path.name)
        print(f"  {record['error'] or 'done'} in {notebooks.taken(record)}", flush=True)
        records.append(record)
    index = out_dir / "index.html"
    index.write_text(_index(records, out_dir), encoding="utf-8")

    rows = comparison(records)
    if rows:
        print(f"\n{as_text(rows)}")
    print(f"\nRead the pages: {index}")
    return all(record["status"] == "done" for record in records)


def comparison(records: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The methods that the stages raced, a row each, ready to print: the mean over seeds."""
    return [
        {
            "method": row["method"],
            "data": record["results"].get("dataset", ""),
            "score": _score(row),
            "density": f"{row['density']:.2%}",
            "active neurons": f"{row['active_neurons']:.0%}",
            "seconds": f"{row['seconds']:.1f}",
        }
        for record in records
        for row in record["results"].get("methods", [])
    ]


def _score(row: Mapping[str, Any]) -> str:
    """Accuracy of images, BLEU of translations, perplexity of language models on their validation text."""
    interval = row["interval"]
    if "perplexity" in row:
        return f"perplexity {row['perplexity']:.1f}"
    if "bleu" in row:
        return f"BLEU {row['bleu']:.1f}" + (f" ± {interval:.1f}" if interval is not None else "")
    return f"{row['accuracy']:.1%}" + (f" ± {interval:.1%}" if interval is not None else "")


def as_text(rows: Sequence[Mapping[str, str]]) -> str:
    """A table of text, the first column to the left and the others to the right."""
    names = list(rows[0])
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in names}

    def line(values: Mapping[str, str]) -> str:
        return "  ".join(
            values[name].ljust(widths[name]) if name == names[0] else values[name].rjust(widths[name]) for name in names
        )

    return "\n".join([line({name: name for name in names}), *(line(row) for row in rows)])


def _index(records: Sequence[Mapping[str, Any]], out_dir: Path) -> str:
    first = records[0]
    rows = comparison(records)
    articles = "".join(_article(record, out_dir) for record in records)
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    table = as_html(rows) if rows else ""
    return document(
        "Brain-inspired sparse training: the tour",
        f"<p>Profile {html.escape(first['parameters']['profile'])}, {html.escape(str(first['device']['name']))}, "
        f"started {html.escape(first['started'])}.</p>{table}{articles}<p><small>{html.escape(versions)}; revision "
        f"{html.escape(first['git'])}</small></p>",
    )


def _article(record: Mapping[str, Any], out_dir: Path) -> str:
    stem = record["notebook"]
    executed = nbformat.read(out_dir / f"{stem}.ipynb", as_version=4)
    failed = f'<p class="failed">failed: {html.escape(record["error"])}</p>' if record["error"] else ""
    return (
        f'<article><h2><a href="{stem}.html">{html.escape(notebooks.title(out_dir / f"{stem}.ipynb"))}</a></h2>'
        f"{failed}{_richest_picture(executed)}<p><small>{record['seconds']:.0f} s · "
        f'<a href="{stem}.html">page</a> · <a href="{stem}.ipynb">notebook</a> · '
        f'<a href="{stem}.json">record</a></small></p></article>'
    )


def _richest_picture(notebook: Mapping[str, Any]) -> str:
    """The picture that takes most bytes, as an <img>: it is the one with most to see."""
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    pictured = [output for output in outputs if "image/png" in output.get("data", {})]
    if not pictured:
        return ""
    richest = max(pictured, key=lambda output: len(output["data"]["image/png"]))
    alt = html.escape(richest["metadata"].get("image/png", {}).get("alt", ""))
    return f'<p><img src="data:image/png;base64,{richest["data"]["image/png"]}" alt="{alt}"></p>'
