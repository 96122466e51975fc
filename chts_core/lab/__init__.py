"""The basis of the notebooks: data, models, training, records, figures and widgets."""

from importlib.util import find_spec

_missing = [name for name in ("ipywidgets", "matplotlib", "pandas", "papermill", "psutil") if find_spec(name) is None]
if _missing:
    raise ImportError(
        f"chts_core.lab needs {', '.join(_missing)}, which the core does not need; install the notebooks extra: pip "
        "install 'chts[notebooks]'."
    )
