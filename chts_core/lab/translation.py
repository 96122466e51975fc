"""Deprecated: this module is `chts_core.lab.train.translation` now; its old name stays for one release."""

from chts_core.lab.train.translation import *  # noqa: F403
