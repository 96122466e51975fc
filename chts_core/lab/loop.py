"""Deprecated: this module's functions are in `chts_core.lab.train` now. The old name works for one more release."""

import warnings

from chts_core.lab.train.loop import *  # noqa: F403
from chts_core.lab.train.machine import *  # noqa: F403
from chts_core.lab.train.recipes import check_iterative_warmup as check_iterative_warmup
from chts_core.lab.train.runs import *  # noqa: F403

warnings.warn(
    "chts_core.lab.loop is now split into the modules loop, machine, recipes and runs of chts_core.lab.train; the old "
    "name works until the next release.",
    DeprecationWarning,
    stacklevel=2,
)
