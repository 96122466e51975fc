"""Damaged and malicious files, each with the error message that chts must show for it.

    for row in refusals(Path("runs/hostile")):
        print(row["scenario"], row["case"], row["refused"])

Each case writes its files into an empty folder and reads them with the usual functions.
"""

import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from chts_core.lab.results import records
from chts_core.lab.verify.wrong_files.case import Case
from chts_core.lab.verify.wrong_files.data_sets import IMAGES, PAIRS, TEXTS, TOKENIZERS
from chts_core.lab.verify.wrong_files.runs import CHECKPOINTS, NOTEBOOKS, RECORDS, ROSTERS, SWEEPS

# The cases, by the kind of file and then by what is wrong with the file.
CASES: Mapping[str, Mapping[str, Case]] = {
    "images": IMAGES,
    "sentence pairs": PAIRS,
    "texts": TEXTS,
    "tokenizers": TOKENIZERS,
    "checkpoints": CHECKPOINTS,
    "records": RECORDS,
    "sweeps": SWEEPS,
    "notebooks": NOTEBOOKS,
    "rosters": ROSTERS,
}


def refusals(folder: Path) -> Iterator[dict[str, Any]]:
    """Read the files of all `CASES`.

    Args:
        folder: a folder to work in; it is emptied before each case.

    Yields:
        A row per case: the kind of file, the case, the message, and "refused". "refused" is True if the message is
        the expected one, and chts changed and added no file.
    """
    about = {"schema": records.SCHEMA, "git": records.git_revision(), "versions": records.versions()}
    about["device"] = records.describe_device(torch.device("cpu"))
    for kind, cases in CASES.items():
        for name, case in cases.items():
            shutil.rmtree(folder, ignore_errors=True)
            said = refusal(case, folder)
            refused = re.search(case.says, said) is not None and _content(folder) == dict(case.files)
            yield about | {"scenario": kind, "fault": "input", "case": name, "said": said, "refused": refused}


def refusal(case: Case, folder: Path) -> str:
    """Write and read the files of a case, and return the message of the ValueError, or "" if there is no error."""
    for name, content in case.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    try:
        case.read(folder)
    except ValueError as error:
        return str(error).replace(str(folder), "")
    return ""


def _content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
