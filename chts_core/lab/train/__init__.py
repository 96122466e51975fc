"""One trainer for all kinds of models. `loop` contains the training loop, and `images`, `translation` and `language`
add the parts that depend on the kind of model. `recipes` contains the settings. `runs` makes the records, and trains
several methods in a race. `checkpoint` saves the state from which a run continues. `tasks` starts a run from the name
of its recipe, and `sweeps` starts many runs.
"""
