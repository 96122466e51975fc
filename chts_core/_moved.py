"""Old names of modules that have moved. Each old name works for one more release and gives a warning."""

import importlib
import importlib.util
import warnings
from importlib.abc import InspectLoader, Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType

# The old names of the modules, grouped by the package that contains the modules now.
_BEFORE = {
    "": "lab.cli",
    "engine": "compaction coverage distributed forward layers linear sharding tracing warm_start watch weights",
    "tools": "audit averaging huggingface link_warmup numerics planner",
    "lab.figures": "lab.panel",
    "lab.notebook": "lab.doctor lab.environment lab.exercises lab.forecast lab.glossary lab.l3 lab.launch "
    "lab.notebooks lab.pages lab.processes lab.tour",
    "lab.results": "lab.evidence lab.paper lab.records lab.report lab.statistics",
    "lab.teach": "lab.assignment lab.slides lab.syllabus lab.teaching",
    "lab.train": "lab.checkpoint lab.images lab.language lab.sweeps lab.tasks lab.translation",
    "lab.verify": "lab.conformance lab.drill lab.faults lab.hostile lab.published",
}
# Modules that were also renamed.
_RENAMED = {"evidence": "tables", "faults": "injected_bugs", "hostile": "wrong_files", "teaching": "classes"}


def _now(package: str, before: str) -> str:
    name = before.rpartition(".")[2]
    return ".".join(filter(None, ("chts_core", package, _RENAMED.get(name, name))))


MOVED = {f"chts_core.{before}": _now(package, before) for package, names in _BEFORE.items() for before in names.split()}


class MovedModules(MetaPathFinder, Loader):
    """Finds a module by its old name and returns the module itself, not a copy."""

    def find_spec(self, fullname: str, *_: object) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Import the module under its current name."""
        now = MOVED[spec.name]
        _warn(spec.name, now)
        module = importlib.import_module(now)
        spec.loader_state = module.__spec__  # the import system is about to replace `__spec__` with `spec`
        return module

    def get_code(self, fullname: str) -> CodeType | None:
        """Return the code of the module under its current name, for `python -m` and torchrun."""
        now = MOVED[fullname]
        spec = importlib.util.find_spec(now)
        assert spec is not None
        assert isinstance(spec.loader, InspectLoader)
        _warn(fullname, now)
        return spec.loader.get_code(now)

    def exec_module(self, module: ModuleType) -> None:
        """Execute nothing, because `create_module` has already imported the module under its current name."""
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


def _warn(before: str, now: str) -> None:
    """Warn, and make the warning point to the import statement.

    The stack level does not count the frames of Python's import system.
    """
    warnings.warn(
        f"{before} is now {now}; the old name works until the next release.", DeprecationWarning, stacklevel=3
    )
