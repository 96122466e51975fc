"""Deprecated: these functions are in `chts_core.lab.train` now; the old name of their module stays for one release."""

from chts_core.lab.train.loop import *  # noqa: F403
from chts_core.lab.train.machine import *  # noqa: F403
from chts_core.lab.train.recipes import check_iterative_warmup as check_iterative_warmup
from chts_core.lab.train.runs import *  # noqa: F403
