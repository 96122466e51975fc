"""One trainer for all kinds of models. `loop` contains the training loop, and `images`, `translation` and `language`
add the parts that depend on the kind of model. `recipes` holds the settings, `runs` runs races and makes records,
`checkpoint` saves the state from which a run continues, and `tasks` and `sweeps` start runs by name.
"""
