"""Deprecated: this module is `chts_core.lab.train.tasks` now; its old name stays for one release."""

from chts_core.lab.train.tasks import *  # noqa: F403
