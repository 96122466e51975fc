"""One trainer: `loop` trains, and `images`, `translation` and `language` bring what differs between kinds of models.

`recipes` say how, `runs` race and record, `checkpoint` keeps what a run needs to go on, `tasks` and `sweeps` start
runs by name.
"""
