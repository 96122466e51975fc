"""One trainer: `loop` trains, and `images`, `translation` and `language` add the parts that differ between kinds of
models. `recipes` holds the settings, `runs` has races and makes records, `checkpoint` saves the state from which a run
continues, and `tasks` and `sweeps` start runs by name.
"""
