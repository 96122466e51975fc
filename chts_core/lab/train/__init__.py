"""One trainer for all kinds of models. `loop` has the training loop, and `images`, `translation` and `language` add the
parts that differ. `recipes` holds the settings, `runs` has races and makes records, `checkpoint` saves the state from
which a run continues, and `tasks` and `sweeps` start runs by name.
"""
