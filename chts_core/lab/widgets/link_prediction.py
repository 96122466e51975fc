"""Choose a missing link in a small network and a predictor, and compute the link's score path by path."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from matplotlib.figure import Figure

from chts_core.lab import figures
from chts_core.lab.notebook import l3
from chts_core.lab.widgets.explorer import Explorer, menu, whole_slider
from chts_core.link_prediction import PREDICTORS

# 5 outputs and 6 inputs. Output 4 and input 2 are linked only to each other, so that some links have no L3 path.
NETWORK = torch.tensor(
    [
        [1, 1, 0, 1, 0, 0],
        [0, 1, 0, 1, 0, 1],
        [0, 1, 0, 1, 1, 0],
        [0, 1, 0, 0, 1, 1],
        [0, 0, 1, 0, 0, 0],
    ],
    dtype=torch.bool,
)
MOST_PATHS = max(len(l3.paths(NETWORK, link)) for link in l3.missing_links(NETWORK))

NAMES = {"ch3_l3p": "CH3-L3p", "ch3_l3n": "CH3-L3n", "ch2_l3n": "CH2-L3n", "ch2_l3p": "CH2-L3p"}


@dataclass(frozen=True)
class LinkPredictionState:
    """What the widget shows: a missing link (output, input), a predictor, and the number of a path (0: all paths)."""

    link: l3.Link = (0, 4)
    predictor: str = "ch2_l3n"
    path: int = 0


@dataclass(frozen=True)
class LinkPredictionResult:
    """The path to highlight (None if there is none), the score of the link, and a text that explains the score."""

    path: l3.Path | None
    score: float
    description: str


class LinkPredictionStepper(Explorer[LinkPredictionState, LinkPredictionResult]):
    """Choose a missing link in a small network and a predictor, and compute the link's score path by path."""

    name = "link-prediction"
    State = LinkPredictionState
    recorded: ClassVar = {
        "link": l3.missing_links(NETWORK),
        "predictor": ("ch2_l3n", "ch3_l3p"),
        "path": range(MOST_PATHS + 1),
    }

    @staticmethod
    def compute(state: LinkPredictionState) -> LinkPredictionResult:
        """Find the paths, the local community and the score of the state's link."""
        paths = l3.paths(NETWORK, state.link)
        nodes = l3.community(NETWORK, state.link)
        score = float(PREDICTORS[state.predictor](NETWORK)[state.link])
        name = NAMES[state.predictor]
        link = f"The missing link {l3.describe(state.link)}"
        if not paths:
            chosen = f", so there is no path {state.path}" if state.path else ""
            return LinkPredictionResult(None, score, f"{link} has no L3 path{chosen}; its {name} score is 0.")
        total = f"The {name} score of the link is {_sum_of_terms(nodes, paths, state.predictor)} = {score:.3f}."
        count = f"{len(paths)} L3 path{'s' if len(paths) > 1 else ''}"
        if state.path == 0:
            members = ", ".join(node.counts for node in nodes)
            return LinkPredictionResult(None, score, f"{link} has {count}. Its local community is {members}. {total}")
        if state.path > len(paths):
            return LinkPredictionResult(None, score, f"{link} has {count}; there is no path {state.path}. {total}")
        path = paths[state.path - 1]
        first, second = (
            next(node for node in nodes if (node.side, node.number) == wanted)
            for wanted in (("input", path[1]), ("output", path[2]))
        )
        terms = (
            f"{first} has the term {_ratio(first, state.predictor)}, and {second} has the term "
            f"{_ratio(second, state.predictor)}"
        )
        if state.predictor.endswith("p"):
            term = f"{terms}, so the path adds {_path_term(first, second, state.predictor)}."
        else:
            term = f"{terms}. Each node counts once, even if it is on several paths."
        description = f"Path {state.path} of {len(paths)}: {l3.describe(path)}. On this path, {term} {total}"
        return LinkPredictionResult(path, score, description)

    @staticmethod
    def draw(state: LinkPredictionState, result: LinkPredictionResult) -> Figure:
        """Draw the network with the link, its paths and its local community."""
        which = f"path {state.path}" if state.path else "all paths"
        if state.path and result.path is None:
            which = f"no path {state.path}"
        title = f"{l3.describe(state.link)}, {which}: {NAMES[state.predictor]} = {result.score:.3f}"
        return figures.local_community(NETWORK, state.link, result.path, title)

    def make_controls(self, state: LinkPredictionState) -> dict[str, Any]:
        """Menus of missing links and predictors, and a slider for the number of the path to highlight."""
        links = [(l3.describe(link), link) for link in l3.missing_links(NETWORK)]
        return {
            "link": menu("missing link", state.link, links),
            "predictor": menu("predictor", state.predictor, [(text, name) for name, text in NAMES.items()]),
            "path": whole_slider("path (0: all)", state.path, 0, MOST_PATHS),
        }


def _ratio(node: l3.Node, predictor: str) -> str:
    """The term of a node in the score as a fraction: (1 + i) / (1 + e) for CH2, and 1 / (1 + e) for CH3."""
    return f"{1 + node.inside if predictor.startswith('ch2') else 1}/{1 + node.outside}"


def _path_term(first: l3.Node, second: l3.Node, predictor: str) -> str:
    return f"√({_ratio(first, predictor)} · {_ratio(second, predictor)})"


def _sum_of_terms(nodes: list[l3.Node], paths: list[l3.Path], predictor: str) -> str:
    if predictor.endswith("n"):
        return " + ".join(_ratio(node, predictor) for node in nodes)
    by_place = {(node.side, node.number): node for node in nodes}
    return " + ".join(_path_term(by_place["input", z1], by_place["output", z2], predictor) for _, z1, z2, _ in paths)
