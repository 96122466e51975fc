"""Mix a method from five choices, and compare it with one of the nine methods."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from matplotlib.figure import Figure

from chts_core.choices import (
    RAMP_TO_3,
    Constant,
    Cosine,
    Cubic,
    Dense,
    ErdosRenyi,
    FullyConnected,
    ReceptiveField,
    Regrowth,
    Removal,
    ScaleFree,
    Sigmoid,
    SmallWorld,
    Staged,
    Turnover,
)
from chts_core.lab import figures
from chts_core.lab.data import load_images
from chts_core.lab.figures.style import METHOD_LABELS
from chts_core.lab.train import images
from chts_core.lab.train.images import Recipe, Run
from chts_core.lab.widgets.explorer import Explorer, menu
from chts_core.methods import METHODS, RETURNING, RETURNS, Method

# The choices for each field of a Method. The key of a choice is its name in the menu.
CHOICES: dict[str, dict[str, Any]] = {
    "topology": {
        "all links": FullyConnected(),
        "Erdős–Rényi": ErdosRenyi(),
        "receptive field": ReceptiveField(0.25),
        "small world": SmallWorld(),
        "scale-free": ScaleFree(),
    },
    "removal": {
        "smallest": Removal("magnitude"),
        "smallest, percolate": Removal("magnitude", percolate=True),
        "smallest, soft, percolate": Removal("magnitude", temperature=RAMP_TO_3, percolate=True),
        "smallest, soft, percolate, prune unimportant": Removal(
            "magnitude", temperature=RAMP_TO_3, percolate=True, prune="relative_importance"
        ),
        "smallest, may return": RETURNING,
        "smallest, with gradient": Removal("mest"),
        "unimportant, hard": Removal("relative_importance"),
        "unimportant, soft, percolate": Removal("relative_importance", temperature=RAMP_TO_3, percolate=True),
    },
    "regrowth": {
        "random": Regrowth("random"),
        "highest gradient": Regrowth("gradient", soft=False),
        "CH3-L3p, highest": Regrowth("ch3_l3p", soft=False),
        "CH2-L3n, highest": Regrowth("ch2_l3n", soft=False),
        "CH2-L3n, soft": Regrowth("ch2_l3n"),
        "CH2-L3n, soft, last weight": Regrowth("ch2_l3n", history=True),
        "largest last weight": RETURNS,
    },
    "sparsity": {
        "all links": Dense(),
        "constant": Constant(),
        "fall in two stages": Staged(),
        "cubic fall from half": Cubic(initial=0.5),
        "sigmoid fall from half": Sigmoid(initial=0.5),
    },
    "turnover": {
        "none": Turnover(zeta=0.0),
        "30 % → 0": Turnover(zeta=Cosine(0.3)),
        "30 % → 0, until all layers are stuck": Turnover(zeta=Cosine(0.3), early_stop=0.9, together=True),
        "all extra links": Turnover(zeta="excess"),
    },
}
_SPARSITY = 0.9
_RECIPE = Recipe(hidden=64, epochs=8, learning_rate=0.05)
_TITLES = {"sparsity": "number of links"}  # for each field whose menu has a different name


def in_words(method: Method) -> dict[str, str]:
    """The five choices of a method, each as its key in `CHOICES`; a choice without a key appears as its repr."""
    return {
        field: next((words for words, choice in choices.items() if choice == getattr(method, field)), None)
        or repr(getattr(method, field))
        for field, choices in CHOICES.items()
    }


@dataclass(frozen=True)
class MethodMixerState:
    """What the method mixer trains: five choices, each as its key in `CHOICES`, and a rival from `METHODS`."""

    topology: str = "Erdős–Rényi"
    removal: str = "smallest, soft, percolate"
    regrowth: str = "CH2-L3n, soft, last weight"
    sparsity: str = "constant"
    turnover: str = "30 % → 0"
    rival: str = "chts"


@dataclass(frozen=True)
class MethodMixerResult:
    """The runs of the rival and of the mix (if the mix can work), and a text that describes them."""

    runs: list[Run]
    description: str


class MethodMixer(Explorer[MethodMixerState, MethodMixerResult]):
    """Mix a method from five choices, and train it and one of the nine methods on the handwritten digits."""

    name = "method-mixer"
    State = MethodMixerState
    recorded: ClassVar = {
        "topology": ("Erdős–Rényi", "receptive field"),
        "removal": ("smallest", "smallest, soft, percolate", "unimportant, soft, percolate"),
        "regrowth": ("random", "highest gradient", "CH3-L3p, highest", "CH2-L3n, soft", "CH2-L3n, soft, last weight"),
    }

    @staticmethod
    def compute(state: MethodMixerState) -> MethodMixerResult:
        """Train the mix and its rival, each in a short run. A second call with the same choices reuses the runs."""
        mix = Method(**{field: choices[getattr(state, field)] for field, choices in CHOICES.items()})
        name = METHOD_LABELS[state.rival]
        theirs = _trained(METHODS[state.rival], state.rival)
        differing = _differing(in_words(mix), in_words(METHODS[state.rival]))
        try:
            mine = _trained(mix, "your mix")
        except ValueError as error:
            said = f"This mix of {differing} cannot work: {error} Choose another topology or number of links."
            return MethodMixerResult([theirs], said)
        accuracies = (
            f"After {_RECIPE.epochs} epochs, the mix has {mine.validation_accuracy[-1]:.1%} validation accuracy with "
            f"{mine.density:.0%} of the links, and {name} has {theirs.validation_accuracy[-1]:.1%} with "
            f"{theirs.density:.0%}."
        )
        comparison = (
            f"The mix differs from {name} in {differing}." if differing else f"The mix is the same method as {name}."
        )
        return MethodMixerResult(
            [theirs, mine],
            f"{comparison} {accuracies} Each method has only one run, and both runs have the same seed, so the "
            "comparison proves nothing.",
        )

    @staticmethod
    def draw(state: MethodMixerState, result: MethodMixerResult) -> Figure:  # noqa: ARG004 - the result is enough
        """Draw the validation accuracy of the runs by epoch."""
        return figures.race(result.runs)

    def make_controls(self, state: MethodMixerState) -> dict[str, Any]:
        """A menu for each choice, and a menu of the methods to compare with."""
        menus = {
            field: menu(_TITLES.get(field, field), getattr(state, field), list(choices))
            for field, choices in CHOICES.items()
        }
        return menus | {"rival": menu("compare with", state.rival, [(METHOD_LABELS[name], name) for name in METHODS])}


@cache
def _trained(method: Method, label: str) -> Run:
    return images.train(load_images("digits"), method, _SPARSITY, _RECIPE, label=label)


def _differing(mine: Mapping[str, str], theirs: Mapping[str, str]) -> str:
    names = [f"{_TITLES.get(field, field)} ({mine[field]})" for field in mine if mine[field] != theirs[field]]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
