"""Report on this machine: versions, device, memory and data sets."""

import psutil
import torch

from chts_core.lab.data import IMAGE_SETS, TRANSLATION_SETS, Source, locate
from chts_core.lab.results import records


def report(*, places: bool) -> str:
    """Versions, device, memory and data sets of this machine, as lines of text.

    Args:
        places: whether the lines show the folders of the data sets. Leave the folders out of a page that others will
            read.
    """
    device = records.describe_device(records.choose_device())
    memory = psutil.virtual_memory()
    lines = ["Versions", *(f"  {name:<13} {version}" for name, version in records.versions().items())]
    lines += ["", "Device", f"  {device['type']}: {device['name']}, {device['threads']} threads"]
    if not torch.cuda.is_available():
        lines.append("  no CUDA device: use the profile ci, binder or laptop")
    lines.append(f"  memory: {memory.available / 2**30:.1f} GB free of {memory.total / 2**30:.1f} GB")
    lines += ["", "Data sets"]
    sources: dict[str, Source[object]] = {**IMAGE_SETS, **TRANSLATION_SETS}
    for name, source in sources.items():
        place = source.remedy if source.folder is None else locate(source)
        found = f"found, {place}" if places or source.folder is None else "found"
        lines.append(f"  {name:<13} {source.size}: {found if place else f'missing; {source.remedy}'}")
    return "\n".join(lines)
