"""The `chts` command. Each command imports its modules when it runs, because importing all of them takes seconds."""

import argparse
import io
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from chts_core.lab.arena.commands import add_arena
from chts_core.lab.data import IMAGE_SETS, TEXT_SETS, TRANSLATION_SETS
from chts_core.lab.notebook import notebooks
from chts_core.lab.teach.commands import Commands, add_teach
from chts_core.lab.train import tasks
from chts_core.methods import get_method


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Return 0 if the command worked, 1 if something failed, and 2 if the request was invalid."""
    _replace_what_cannot_be_shown()
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except (ValueError, OSError) as error:
        print(f"chts: {error}", file=sys.stderr)
        return 2


def _replace_what_cannot_be_shown() -> None:
    """If the console cannot show a character, print a replacement, so that the command does not fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="chts", description="Brain-inspired sparse training, in notebooks.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (
        _add_doctor,
        _add_list,
        _add_glossary,
        _add_run,
        _add_train,
        _add_sweep,
        _add_report,
        _add_lab,
        _add_exercises,
        add_teach,
        _add_drill,
        _add_conformance,
        add_arena,
        _add_bench,
        _add_tour,
    ):  # in the order of the help
        add(commands)
    return parser


def _add_doctor(commands: Commands) -> None:
    command = commands.add_parser("doctor", help="show versions, device, memory, and which data sets are present")
    command.set_defaults(command=_doctor)


def _doctor(_: argparse.Namespace) -> int:
    from chts_core.lab.notebook import doctor

    print(doctor.report(places=True))
    return 0


def _add_list(commands: Commands) -> None:
    command = commands.add_parser("list", help="list the notebooks and their parameters")
    command.set_defaults(command=_list)


def _list(_: argparse.Namespace) -> int:
    for path in notebooks.stages():
        minutes = notebooks.profile_settings(path.stem, "laptop")["minutes"]
        print(f"{path.stem}: {notebooks.title(path)} ({minutes:g} min with the profile laptop)")
        for parameter in notebooks.parameters(path).values():
            print(f"    {parameter.name:<13} {parameter.type.__name__:<6} {parameter.default!r:<10} {parameter.help}")
    return 0


def _add_glossary(commands: Commands) -> None:
    command = commands.add_parser("glossary", help="print every term with its stage, its meaning and its function")
    command.set_defaults(command=_glossary)


def _glossary(_: argparse.Namespace) -> int:
    from chts_core.lab.notebook.glossary import GLOSSARY

    for term in GLOSSARY:
        print(f"{term.name} (stage {term.stage}): {term.meaning}\n    {term.function}")
    return 0


def _add_run(commands: Commands) -> None:
    command = commands.add_parser("run", help="run a notebook with parameters and record the run")
    command.add_argument("notebook", metavar="NOTEBOOK", help="stage number (06), name (06_mlp) or path")
    command.add_argument(
        "-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="set a parameter"
    )
    command.add_argument(
        "--profile", help=f"how large the run is: {', '.join(notebooks.PROFILES)} (default: $CHTS_PROFILE, or laptop)"
    )
    command.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: runs/NOTEBOOK-TIME)")
    command.add_argument("--page", action="store_true", help="also write the executed notebook as an HTML page")
    command.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> int:
    from chts_core.lab.notebook.notebook_page import write_page
    from chts_core.lab.notebook.tour import as_text, comparison

    path = notebooks.find(options.notebook)
    given = [*options.parameters, *([("profile", options.profile)] if options.profile is not None else [])]
    names = [name for name, _ in given]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"parameter {', '.join(twice)} is given more than once; give each parameter one value.")
    parameters = notebooks.checked_parameters(path, dict(given))
    out_dir = options.out or Path("runs") / f"{path.stem}-{datetime.now():%Y%m%d-%H%M%S}"
    estimate = notebooks.expected(path, parameters)
    print(f"expected to take {estimate}" if estimate else "time unknown: this notebook is not a stage", flush=True)
    record = notebooks.run(path, out_dir, parameters)
    rows = comparison([record])
    if rows:
        print(as_text(rows))
    print(f"it took {notebooks.taken(record)}")
    print(f"notebook: {out_dir / path.name}\nrecord:   {out_dir / path.stem}.json")
    if options.page:
        print(f"page:     {write_page(out_dir / path.name)}")
    if record["error"]:
        print(f"chts: {path.stem} failed: {record['error']}", file=sys.stderr)
    return 1 if record["error"] else 0


def _add_train(commands: Commands) -> None:
    command = commands.add_parser(
        "train",
        help="train one classifier, translator or language model and record the run",
        description="Train one classifier, translator or language model. Several processes can train a language model: "
        "torchrun --nproc-per-node 2 -m chts_core.cli train tiny --out DIR",
    )
    command.add_argument("recipe", metavar="RECIPE", help=f"one of {', '.join(tasks.RECIPES)}")
    command.add_argument(
        "--dataset",
        default="",
        help=f"for classifiers {', '.join(IMAGE_SETS)}; for translators {', '.join(TRANSLATION_SETS)}; "
        f"for language models {', '.join(TEXT_SETS)} (default: the recipe's own, or the first of its list)",
    )
    command.add_argument(
        "--method",
        default="chts",
        help='a name, optionally with replaced choices: "set with topology=SmallWorld(0.25)" (default: chts)',
    )
    command.add_argument("--sparsity", type=float, default=0.9, help="share of absent links (default: 0.9)")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument(
        "-s",
        dest="settings",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="change a setting of the recipe, for example with -s steps 500",
    )
    command.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    command.add_argument("--parallel", choices=("ddp", "fsdp"), default="ddp", help="how processes share the training")
    command.add_argument("--data-dir", help="where to look for data first")
    command.add_argument(
        "--save-every",
        type=int,
        default=500,
        metavar="STEPS",
        help="steps between checkpoints of a translator or language model; classifiers save every few epochs "
        "(default: 500)",
    )
    command.add_argument(
        "--tensorboard", type=Path, metavar="DIR", help="write TensorBoard logs of a language model to DIR"
    )
    help_of_out = "where to write the checkpoint; an interrupted run continues from it"
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help=help_of_out)
    command.set_defaults(command=_train)


def _train(options: argparse.Namespace) -> int:
    from chts_core.lab.data import load_text
    from chts_core.lab.train import language
    from chts_core.lab.train.machine import processes_of_torchrun

    settings = dict(options.settings)
    for name in tasks.DEFAULTS.keys() & settings.keys():
        raise ValueError(f"{name} is not a setting of a recipe; write --{name.replace('_', '-')} {settings[name]}.")
    parameters = settings | {name: getattr(options, name) for name in tasks.DEFAULTS}
    recipe, settled = tasks.checked(options.recipe, parameters)
    if not isinstance(recipe, language.Recipe):
        if "TORCHELASTIC_RUN_ID" in os.environ or options.parallel != "ddp" or options.tensorboard is not None:
            raise ValueError(
                "a classifier or translator trains in one process and writes no TensorBoard logs; leave out torchrun, "
                "--parallel and --tensorboard."
            )
        record = tasks.train(options.recipe, parameters, options.out, save_every=options.save_every, show=True)
        test = record["test"]
        outcome = (
            f"test accuracy {test['accuracy']:.2%} after the last epoch"
            if "accuracy" in test
            else f"test BLEU {test['bleu']}, lower-case {test['bleu_lowercase']}, exact translations {test['exact']} %"
        )
        print(f"{outcome}\nrecord: {options.out / 'run.json'}")
        return 0
    with processes_of_torchrun(options.device) as device:
        found = language.train_and_record(
            language.prepare(load_text(settled["dataset"], options.data_dir), recipe),
            options.method,
            options.sparsity,
            recipe,
            options.out,
            seed=options.seed,
            device=device,
            save_every=options.save_every,
            log_to=options.tensorboard,
            parallel=options.parallel,
        )
        if found is not None:  # only the first process has a result
            print(
                f"perplexity {found['validation'][-1]['perplexity']} after {found['tokens']:,} tokens, "
                f"{found['tokens_per_second']:,} per second\nrecord: {options.out / 'run.json'}"
            )
    return 0


def _add_sweep(commands: Commands) -> None:
    command = commands.add_parser(
        "sweep",
        help="run a grid of methods, sparsities and seeds in parallel; exit with 1 if a cell failed",
        description='The file has "notebook: 06" or "train: tiny", "parameters" (a mapping) and "grid" (value lists).',
    )
    command.add_argument("spec", type=Path, metavar="SPEC.yaml")
    help_of_out = "folder for the results; to continue an interrupted sweep, give its folder"
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help=help_of_out)
    command.add_argument("--workers", type=int, metavar="N", help="local processes (default: one per physical core)")
    command.add_argument(
        "--scheduler", metavar="ADDRESS", help="address of a Dask scheduler whose workers see DIR under the same path"
    )
    command.set_defaults(command=_sweep)


def _sweep(options: argparse.Namespace) -> int:
    from chts_core.lab.train import sweeps

    try:
        rows = sweeps.sweep(options.spec, options.out, workers=options.workers, scheduler=options.scheduler)
    except KeyboardInterrupt:
        print(f"chts: stopped; {options.out} has the finished cells. Repeat the command to continue.", file=sys.stderr)
        return 130
    failed = [row for row in rows if row["status"] == "failed"]
    for row in failed:
        print(f"chts: {row['cell']} failed: {row['error']} (see {options.out / row['cell']})", file=sys.stderr)
    print(f"{len(rows) - len(failed)} of {len(rows)} cells are done: {options.out / 'sweep.jsonl'}")
    return 1 if failed else 0


def _add_report(commands: Commands) -> None:
    command = commands.add_parser("report", help="write tables and learning curves of recorded runs as one page")
    command.add_argument("folder", type=Path, metavar="DIR", help="folder of *.jsonl files: results, a sweep or a race")
    command.add_argument("--out", type=Path, metavar="DIR", help="where to write the page (default: DIR/report)")
    command.set_defaults(command=_report)


def _report(options: argparse.Namespace) -> int:
    from chts_core.lab.notebook.tour import as_text
    from chts_core.lab.results import report

    for name, rows in report.read(options.folder).items():
        print(f"{name}\n{as_text(report.table(rows))}\n")
    print(f"page: {report.write(options.folder, options.out or options.folder / 'report')}")
    return 0


def _add_lab(commands: Commands) -> None:
    command = commands.add_parser(
        "lab",
        help="open copies of the notebooks in JupyterLab",
        description="JupyterLab accepts connections only from this machine, and asks for the token that it prints.",
    )
    command.add_argument(
        "folder", type=Path, nargs="?", default=Path("chts-notebooks"), metavar="DIR", help="default: chts-notebooks"
    )
    command.add_argument("--no-browser", action="store_true", help="do not open a browser")
    command.set_defaults(command=_lab)


def _lab(options: argparse.Namespace) -> int:
    copied = notebooks.copy_to(options.folder)
    print(f"{len(copied)} notebooks are new in {options.folder}; your existing copies did not change.")
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={options.folder.resolve()}"]
    command += ["--ServerApp.ip=localhost", *(["--no-browser"] if options.no_browser else [])]
    try:
        return subprocess.call(command)
    except KeyboardInterrupt:  # the usual way to end JupyterLab
        return 0


def _add_exercises(commands: Commands) -> None:
    command = commands.add_parser("exercises", help="write the notebooks for students, without outputs and solutions")
    command.add_argument("--out", type=Path, default=Path("exercises"), metavar="DIR", help="default: exercises")
    command.set_defaults(command=_exercises)


def _exercises(options: argparse.Namespace) -> int:
    from chts_core.lab.notebook.exercises import student_version, write_versions

    for path in write_versions(notebooks.stages(), options.out, student_version):
        print(path)
    return 0


def _add_drill(commands: Commands) -> None:
    command = commands.add_parser(
        "drill",
        help="kill training runs, remove their disk, change their clock and give them wrong files; exit with 1 if a "
        "run fails",
        description="A hundred kills take about an hour on two cores.",
    )
    command.add_argument("--kills", type=int, default=100, metavar="N", help="total number of kills (default: 100)")
    command.add_argument("--seed", type=int, default=0, help="seed for the times and signals of the kills (default: 0)")
    command.add_argument("--work", type=Path, default=Path("runs/drill"), metavar="DIR", help="default: runs/drill")
    command.add_argument("--out", type=Path, metavar="FILE", help="also write one line of JSON per fault to FILE")
    command.set_defaults(command=_drill)


def _drill(options: argparse.Namespace) -> int:
    from chts_core.lab.results import records
    from chts_core.lab.verify import drill, wrong_files

    rows = []
    faults = drill.drill(options.kills, options.work, seed=options.seed)
    for row in itertools.chain(wrong_files.refusals(options.work / "files"), faults):
        rows.append(row)
        good, bad = ("refused", "NOT refused") if row["fault"] == "input" else ("as undisturbed", "NOT as undisturbed")
        print(
            f"{row['scenario']:<30} {row.get('case', row['fault']):<26} {good if drill.survived(row) else bad}",
            flush=True,
        )
        if options.out is not None:
            records.write_lines(options.out, rows)
    print(f"survived {sum(map(drill.survived, rows))} of {len(rows)} faults")
    return 0 if all(map(drill.survived, rows)) else 1


def _add_conformance(commands: Commands) -> None:
    command = commands.add_parser(
        "conformance", help="compare every method with its published formulas and commands; exit with 1 if one differs"
    )
    command.add_argument(
        "methods",
        nargs="*",
        metavar="METHOD",
        help='a name, optionally with replaced choices: "set with topology=SmallWorld(0.25)" '
        "(default: the nine methods of the paper, and the presets of published commands)",
    )
    command.add_argument("--out", type=Path, metavar="FILE", help="also write the report as JSON")
    command.set_defaults(command=_conformance)


def _conformance(options: argparse.Namespace) -> int:
    from chts_core.lab.results import records
    from chts_core.lab.verify import conformance

    started = time.perf_counter()
    named = {name: get_method(name) for name in options.methods}
    results = conformance.conformance(named) if named else conformance.conformance()
    recorded = conformance.published(named or None)
    print(f"Compared with the methods' formulas:\n\n{conformance.as_table(results)}")
    if recorded:
        print(f"\nCompared with numbers recorded from the published commands:\n\n{conformance.as_table(recorded)}")
    if options.out is not None:
        record = {
            "schema": records.SCHEMA,
            "conformance": conformance.as_record(results),
            "published": conformance.as_record(recorded),
            "versions": records.versions(),
            "device": records.describe_device(records.choose_device()),
            "git": records.git_revision(),
            "seconds": round(time.perf_counter() - started, 3),
        }
        records.write_json(options.out, record)
        print(f"written to {options.out}")
    return int(any(result.passed is False for result in (*results, *recorded)))


def _add_bench(commands: Commands) -> None:
    command = commands.add_parser("bench", help="compare times of chts and rivals; exit with 1 if a benchmark failed")
    command.add_argument("topics", nargs="*", metavar="TOPIC", help="which benchmarks (default: all)")
    command.add_argument("--out", type=Path, default=Path("runs/bench"), metavar="DIR", help="default: runs/bench")
    command.add_argument("--list", action="store_true", help="list the benchmarks and run none")
    command.set_defaults(command=_bench)


def _bench(options: argparse.Namespace) -> int:
    from chts_core.lab import bench

    if options.list:
        for topic, subject in bench.topics().items():
            print(f"{topic:<16} {subject}")
        return 0
    return 0 if bench.bench(options.topics, options.out) else 1


def _add_tour(commands: Commands) -> None:
    command = commands.add_parser(
        "tour",
        help="run the notebooks, two at a time, and write one page about them; exit with 1 if one failed",
        description="Each notebook runs on one thread, unless OMP_NUM_THREADS asks for more. Ctrl-C ends the tour.",
    )
    command.add_argument(
        "notebooks",
        nargs="*",
        metavar="NOTEBOOK",
        help="stage number (06), name (06_mlp) or path (default: all stages)",
    )
    command.add_argument(
        "--profile", default="", help=f"one of {', '.join(notebooks.PROFILES)} (default: $CHTS_PROFILE, or laptop)"
    )
    command.add_argument("--out", type=Path, default=Path("runs/tour"), metavar="DIR", help="default: runs/tour")
    command.set_defaults(command=_tour)


def _tour(options: argparse.Namespace) -> int:
    from chts_core.lab.notebook.tour import tour

    paths = list(dict.fromkeys(notebooks.find(name) for name in options.notebooks))
    try:
        return 0 if tour(notebooks.chosen_profile(options.profile), options.out, paths) else 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
