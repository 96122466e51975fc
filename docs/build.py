"""Build the site into runs/site/html: `python docs/build.py`. It executes no notebook and fetches nothing.

A warning is an error.
"""

import ast
import base64
import io
import json
import math
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import torch
from mdit_py_plugins.anchors.index import slugify
from PIL import Image

from chts_core import topology
from chts_core.lab.notebook import exercises, glossary, launch, notebooks
from chts_core.lab.notebook.notebook_page import record_widgets
from chts_core.lab.notebook.notebooks import as_markdown
from chts_core.lab.notebook.pages import markdown_as_html
from chts_core.lab.notebook.tour import richest_picture
from chts_core.lab.results import records
from chts_core.lab.results.tables import runs
from chts_core.lab.teach import slides, syllabus

ROOT = Path(__file__).parents[1]
OUT = ROOT / "runs" / "site"
SOURCE = OUT / "source"
# The pages of the repository show this text where the site shows a table.
_ON_THE_SITE = "*(See the site, which `make site` builds.)*"
EXPORTED = ROOT / "benchmarks" / "results" / "export.json"


def to_file(words: str, path: str) -> str:
    """Return a Markdown link to a file of the repository, or only the words while the repository has no owner."""
    if launch.OWNER == launch.NOBODY:
        return words
    return f"[{words}]({launch.REPOSITORY}/blob/{launch.RELEASE}/{path})"


def published(text: str, folder: str = "") -> str:
    """Return the Markdown of a repository folder with links to the pages of stages and to published files."""

    def lead(found: re.Match[str]) -> str:
        words, target = found.groups()
        return found[0] if re.match(r"https?:|#|notebooks/", target) else to_file(words, folder + target)

    return re.sub(r"\[([^\]]+)\]\(([^)]+)\)", lead, text)


def lead_out_of_guides() -> None:
    """Make the links that leave the folder of the guides lead to the pages of stages and to published files."""
    for page in (SOURCE / "guides").glob("*.md"):
        text = page.read_text("utf-8").replace("](../../notebooks/", "](../notebooks/")
        page.write_text(
            re.sub(r"\[([^\]]+)\]\(\.\./\.\./([^)]+)\)", lambda found: to_file(*found.groups()), text), "utf-8"
        )


def write_stages() -> None:
    """Copy the committed notebooks without their links to Colab and Binder: each page already has these links."""
    (SOURCE / "notebooks").mkdir()
    for path in notebooks.stages():
        notebook = nbformat.read(path, as_version=4)
        if buttons := launch.badges(path.stem):
            notebook.cells[0].source = notebook.cells[0].source.replace(f"{buttons}\n\n", "")
        for cell in notebook.cells:
            cell.source = cell.source.replace("](../docs/guides/", "](../guides/")
        notebook.cells = [cell for cell in notebook.cells if "bootstrap" not in cell.metadata.get("tags", [])]
        for cell in notebook.cells:
            record_widgets(cell)
        listed = ", ".join(f"[{one.title}](#{slugify(f'Exercise: {one.title}')})" for one in exercises.listed(notebook))
        notebook.cells[0].source += f"\n\n**Exercises:** {listed}."
        for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
            output.get("data", {}).pop(records.RESULTS_TYPE, None)  # only records need it, not readers
        nbformat.write(notebook, SOURCE / "notebooks" / path.name)


def write_cards() -> None:
    """Write a card for each stage into the first page: a picture, the goal, the minutes to read and the level."""
    (SOURCE / "_static" / "cards").mkdir()
    cards = []
    for path in notebooks.stages():
        notebook = nbformat.read(path, as_version=4)
        header = notebook.cells[0].source
        picture = ""
        if richest := richest_picture(notebook):
            file = SOURCE / "_static" / "cards" / f"{path.stem}.webp"
            image = Image.open(io.BytesIO(base64.b64decode(richest[0])))
            image.thumbnail((640, 640))
            image.save(file, "WEBP", quality=80)
            picture = f'<img src="_static/cards/{file.name}" alt="" role="presentation" loading="lazy">'
        (minutes,) = re.findall(r"^\| Time \| ([^,|]+)", header, re.MULTILINE)
        (level,) = re.findall(r"^\| Difficulty \| (\S+)", header, re.MULTILINE)
        goal = notebooks.objectives(header)[0]
        cards.append(
            f'<a class="card" href="notebooks/{path.stem}.html">{picture}<strong>{notebooks.title(path)}</strong>'
            f"<span>{markdown_as_html(f'You will be able to {goal}.')}</span>"
            f"<small>{minutes.strip()} · {level}</small></a>"
        )
    page = SOURCE / "index.md"
    _fill(page, cards=f'<div class="cards">{"".join(cards)}</div>')


def write_reference() -> None:
    """Write a page for each module of the core, from the lowest level to the highest."""
    house, *_ = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    names = [name.strip() for layer in reversed(house["layers"]) for name in layer.split("|")]
    modules = []
    for name in names:
        folder = ROOT / name.replace(".", "/")
        if not folder.is_dir():
            modules.append(name)
        elif name in ("chts_core.engine", "chts_core.tools"):
            modules += [f"{name}.{path.stem}" for path in sorted(folder.glob("[a-z]*.py"))]
    modules.remove("chts_core.cli")
    (SOURCE / "api").mkdir()
    for name in modules:
        short = name.removeprefix("chts_core.")
        page = f"# {short}\n\n```{{eval-rst}}\n.. automodule:: {name}\n   :members:\n```\n"
        (SOURCE / "api" / f"{short}.md").write_text(page, "utf-8")
    listed = "\n".join(name.removeprefix("chts_core.") for name in modules)
    order = "The list goes from the lowest level to the highest: later modules import earlier modules."
    contents = f"# The core\n\n{order}\n\n```{{toctree}}\n{listed}\n```\n"
    (SOURCE / "api" / "index.md").write_text(contents, "utf-8")


def _fill(page: Path, **values: str) -> None:
    """Put values into a page. Where a table belongs, the page in the repository says that the site has it."""
    text = page.read_text("utf-8")
    for name, value in values.items():
        text = text.replace(f"{{{name}}} {_ON_THE_SITE}", value).replace(f"{{{name}}}", value)
    page.write_text(text, "utf-8")


def write_glossary() -> None:
    """Write each term with its formula, its function and its test into the page *Using the notebooks*."""
    page = SOURCE / "guides" / "using_the_notebooks.md"
    _fill(page, glossary=as_markdown(glossary.rows()))


def write_exercises() -> None:
    """Write every exercise, with its difficulty, minutes and objectives, into the page of exercises."""
    rows = [
        {
            "stage": f"[{path.stem.partition('_')[0]}](../notebooks/{path.name})",
            "exercise": one.title,
            "": "★" * one.difficulty,
            "minutes": str(one.minutes),
            "importance": one.importance,
            "objectives": ", ".join(map(str, one.objectives)),
            "code": "code" if one.writes_code else "",
        }
        for path in notebooks.stages()
        for one in exercises.listed(nbformat.read(path, as_version=4))
    ]
    page = SOURCE / "guides" / "exercises.md"
    _fill(page, exercises=as_markdown(rows))


def write_cheat_sheet() -> None:
    """Write the formulas of each subject and the methods into the cheat sheet, which has two printed pages."""
    subjects = {
        "Networks": ("01",),
        "Link prediction": ("02",),
        "Removal, sampling, percolation": ("03", "04"),
        "Density and turnover": ("05", "06"),
        "Models": ("08", "08b", "09"),
    }
    tables = []
    for subject, stages in subjects.items():
        terms = [term for term in glossary.GLOSSARY if term.stage in stages and (term.formula or term.stage == "04")]
        rows = [
            {
                "": term.name,
                "formula": f"${term.formula}$" if term.formula else "",
                "in words": term.meaning,
                "stage": term.stage,
            }
            for term in terms
        ]
        tables.append(f"## {subject}\n\n{as_markdown(rows)}")
    methods = "\n".join(
        line for line in (SOURCE / "guides" / "methods.md").read_text("utf-8").splitlines() if line.startswith("|")
    )
    page = SOURCE / "guides" / "cheat_sheet.md"
    _fill(page, terms="\n\n".join(tables), methods=methods)


def write_conformance() -> None:
    """Write a page of what `chts conformance --out results/conformance.json` has recorded."""
    marks = {True: "holds", False: "**fails**", None: "–"}
    record = json.loads((ROOT / "results" / "conformance.json").read_text("utf-8"))
    tables = []
    for report, what in (("conformance", "method"), ("published", "preset")):
        found: dict[str, dict[str, str]] = {}
        for result in record[report]:
            row = found.setdefault(result["method"], {what: result["method"]})
            row[result["check"]] = marks[result["passed"]]
        tables.append(as_markdown(list(found.values())))
    text = (
        "# Conformance\n\nWe run each method and compare it with a second, plain implementation of what it must do. "
        "`chts conformance` does this on your machine. A dash means that the method has no such part, or that there "
        f"was no such device. We recorded the results with torch {record['versions']['torch']} on "
        f"{record['device']['name']}.\n\n{tables[0]}\n\n"
        "We compare the presets of the published commands with numbers that we recorded from these commands. A dash "
        "means that nothing was recorded.\n\n"
    )
    (SOURCE / "conformance.md").write_text(f"{text}{tables[1]}\n", "utf-8")


def write_promises() -> None:
    """Write what users may do after attaching, and what happens then, from the tests with the mark `promise`."""
    kinds = {
        "followed": "The library follows",
        "a warning": "The library warns",
        "refused": "The library refuses",
        "nothing": "The library says nothing",
    }
    rows: dict[str, list[dict[str, str]]] = {heading: [] for heading in kinds.values()}
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        for test in ast.walk(ast.parse(path.read_text("utf-8"))):
            for mark in getattr(test, "decorator_list", []):
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.promise":
                    doing, answer = (ast.literal_eval(argument) for argument in mark.args)
                    (heading,) = (heading for start, heading in kinds.items() if answer.startswith(start))
                    rows[heading].append({"you": doing, "what happens": answer})
    tables = "\n\n".join(f"## {heading}\n\n{as_markdown(listed)}" for heading, listed in rows.items())
    page = SOURCE / "guides" / "followed.md"
    _fill(page, promises=tables)


def write_twins() -> None:
    """Write the table of fast functions and their plain references, from the tests with the mark `twin`."""
    rows = [
        {
            "fast": fast,
            "plain": plain,
            "equal in": f"{how} (tests of {path.stem.removeprefix('test_').replace('_', ' ')})",
        }
        for path in sorted((ROOT / "tests").glob("test_*.py"))
        for test in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(test, ast.FunctionDef)
        for mark in test.decorator_list
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.twin"
        for fast, plain, how in [[ast.literal_eval(argument) for argument in mark.args]]
    ]
    page = SOURCE / "guides" / "fast_and_plain.md"
    _fill(page, twins=as_markdown(rows))


def write_timings() -> None:
    """Write the time and the memory of each stage into the page for teachers."""
    rows = [
        {
            "stage": f"{stage.number} {stage.title}",
            "builds on": ", ".join(stage.prerequisites) or "–",
            "difficulty": stage.difficulty,
            "minutes to run": f"{stage.minutes:g}",
            "memory": f"{stage.memory_mb} MB",
        }
        for stage in notebooks.overview("laptop")
    ]
    page = SOURCE / "guides" / "teach.md"
    measured = "We measured the minutes and the memory on two cores, with the profile `laptop`."
    text = f"## Time and memory of each stage\n\n{measured}\n\n{as_markdown(rows)}"
    _fill(page, timings=text)


def write_growth() -> None:
    """Write the table and the figure of how the cost grows with the size of a layer into their page."""
    rows = json.loads((ROOT / "benchmarks" / "results" / "growth.json").read_text("utf-8"))["rows"]
    sizes = sorted({row["size"] for row in rows})
    lines = []
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    for work, marker in zip(dict.fromkeys(row["work"] for row in rows), "osD^v", strict=True):
        mine = {row["size"]: row for row in rows if row["work"] == work}
        line = {"work": work}
        for size in sizes:
            row = mine.get(size)
            line[f"{size}²"] = (
                f"{_digits(1e3 * row['seconds'])} ms, {_digits(row['extra_bytes'] / 2**20)} MB" if row else "–"
            )
        for (key, name), axis in zip((("seconds", "time"), ("extra_bytes", "memory")), axes, strict=True):
            first, last = mine[min(mine)], mine[max(mine)]
            power = math.log(last[key] / first[key]) / math.log(last["links"] / first["links"])
            line[f"exponent of the {name}"] = f"{power:.2f}"
            unit = 1 if key == "seconds" else 2**20
            axis.loglog(list(mine), [row[key] / unit for row in mine.values()], marker=marker, label=work)
        lines.append(line)
    axes[1].loglog(sizes, [4 * size**2 / 2**20 for size in sizes], "k:", label="the dense weight")
    for axis, title in zip(axes, ("seconds", "additional memory (MB)"), strict=True):
        axis.set_xscale("log", base=2)
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axis.set_xlabel("inputs and outputs of the layer, which keeps 1 % of its links")
        axis.set_title(title)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.savefig(SOURCE / "_static" / "growth.png", dpi=130)

    costs = {
        f"chts_{row['size']}": f"{1e6 * row['seconds'] / row['links']:.1f}"
        for row in rows
        if row["work"] == "update of chts"
    }
    shares: dict[str, dict[str, str]] = {}
    for row in json.loads((ROOT / "benchmarks" / "results" / "shares.json").read_text("utf-8"))["rows"]:
        part, step = row["comparison"].split(", ", 1)
        shares.setdefault(part, {"share of the time": part})[step] = f"{row['share']:.0%}"
    peaks = {row["method"]: f"{row['peak_memory_mb']:,}" for row in runs("mlp_paper") if row["seed"] == 0}
    page = SOURCE / "guides" / "growth.md"
    _fill(
        page,
        growth=as_markdown(lines),
        shares=as_markdown(list(shares.values())),
        mlp_set=peaks["set"],
        mlp_l3p=peaks["chts/paper_mlp_fashion_l3p"],
        **costs,
    )


def write_exported() -> None:
    """Write the formats of exported models, with their file sizes and speeds, into the page *Ship it*."""
    rows = {row["comparison"]: row for row in json.loads(EXPORTED.read_text("utf-8"))["rows"]}
    who = {
        "links": "torch, the loader below, the code of the model",
        "links, int8": "torch, the loader below, the code of the model",
        "csr layers": "`chts_core`, the code of the model",
        "torch CSR": "torch, the code of the model",
        "torchao int8": "torch and torchao, the code of the model",
        "compacted, dense": "torch, code for the new sizes",
        "torch.export, compacted": "torch",
        "ONNX, compacted": "an ONNX runtime",
    }
    as_dense, dense = ("1×", "1×"), rows["load links"]["rival_bytes"]
    lines = [_format("dense with zeros", dense, dense, "torch, the code of the model", as_dense)]
    for name, needed in who.items():
        if name.startswith("links"):
            lines.append(_format(name, rows[f"load {name}"]["bytes"], dense, needed, as_dense))
        else:
            both = [rows[f"{name}, {samples} samples"] for samples in (1, 256)]
            speeds = tuple(f"{_digits(row['times_faster'])}×" for row in both)
            lines.append(_format(name, both[0]["bytes"], dense, needed, speeds))
    page = SOURCE / "guides" / "ship_it.md"
    _fill(page, exported=as_markdown(lines))


def _format(name: str, size: int, dense: int, needed: str, speeds: tuple[str, ...]) -> dict[str, str]:
    one, many = speeds
    file = f"{size / 1e6:.2f} MB ({size / dense:.0%})"
    return {"format": name, "file": file, "to load it": needed, "speed, 1 sample": one, "speed, 256 samples": many}


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def write_plans() -> None:
    """Write a page for each teaching plan."""
    for plan in syllabus.plans():
        (SOURCE / "guides" / f"{plan.name}.md").write_text(syllabus.as_page(plan), "utf-8")


def write_list_of_slides() -> None:
    """Write links to the slides into the page for teachers. Sphinx does not know these pages."""
    page = SOURCE / "guides" / "teach.md"
    listed = "".join(
        f'<li><a href="../slides/{path.stem}.html">{notebooks.title(path)}</a></li>' for path in notebooks.stages()
    )
    _fill(page, slides=f"<ul>{listed}</ul>")


def write_all_slides() -> None:
    """Write the slides of each stage into a folder next to the pages."""
    for path in notebooks.stages():
        slides.write_slides(path, OUT / "html" / "slides")


def draw_card() -> None:
    """Draw the picture that a shared link to the site shows."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 6.3))
    wirings = {"at random": 1.0, "receptive fields": 0.25, "nearest inputs": 0.0}
    for axis, (title, r) in zip(axes, wirings.items(), strict=True):
        mask = topology.receptive_field(24, 24, 0.15, r, generator=torch.Generator().manual_seed(0))
        axis.imshow(mask, cmap="Greys", interpolation="nearest")
        axis.set_title(f"{title} (r = {r:g})", fontsize=18)
        axis.set_xticks([])
        axis.set_yticks([])
    figure.suptitle("chts: brain-inspired sparse training", fontsize=28)
    figure.text(0.5, 0.05, "86 of 576 links: three initial wirings of a layer", ha="center", fontsize=18)
    figure.savefig(SOURCE / "_static" / "card.png", dpi=100)


def finish() -> None:
    """Give the theme's folds a name for screen readers, and make links to notebooks lead to their pages."""
    for page in (OUT / "html").rglob("*.html"):
        text = page.read_text("utf-8")
        text = text.replace(
            '<summary><span class="toctree', '<summary aria-label="The pages below"><span class="toctree'
        )
        text = re.sub(r'(href="[0-9]{2}b?_[a-z0-9_]+)\.ipynb"', r'\1.html"', text)
        page.write_text(text, "utf-8")


def main() -> None:
    """Put the sources together and run Sphinx."""
    shutil.rmtree(OUT, ignore_errors=True)
    shutil.copytree(ROOT / "docs", SOURCE, ignore=shutil.ignore_patterns("build.py", "__pycache__"))
    lead_out_of_guides()
    write_stages()
    write_cards()
    write_reference()
    write_glossary()
    write_exercises()
    write_cheat_sheet()
    write_conformance()
    write_promises()
    write_twins()
    write_growth()
    write_exported()
    write_timings()
    write_plans()
    write_list_of_slides()
    draw_card()
    results = (ROOT / "results" / "README.md").read_text("utf-8")
    (SOURCE / "results.md").write_text(published(results, "results/"), "utf-8")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(SOURCE), str(OUT / "html")]
    if subprocess.run(command, check=False).returncode:
        sys.exit("the site has warnings; each says where.")
    finish()
    write_all_slides()


if __name__ == "__main__":
    main()
