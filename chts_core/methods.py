"""The methods, each as five choices.

    topology    how the network is wired at the start
    removal     which links are removed
    regrowth    which links are regrown
    sparsity    how many links there are at step t
    turnover    how many links are exchanged at step t

An update of the topology has four steps (:mod:`chts_core.update`; paper, Figure 2). First, the sparsity gives the
number of links of each layer. Second, the update prunes the links beyond this number. It also removes the links to be
exchanged; the turnover gives their number. Third, if `removal.percolate` is true, the update removes the links that are
now cut off. Fourth, the regrowth adds links until each layer has its number of links again. `step()` of a
:class:`chts_core.sparsifier.Sparsifier` makes an update every `update_every` steps.

`METHODS` contains the nine methods of the paper. `PRESETS` contains other versions of these methods, for example for a
single task, or as in the published code. Change a choice with
`dataclasses.replace(METHODS["set"], regrowth=Regrowth("ch2_l3n"))`, or in words:
"set with regrowth=Regrowth('ch2_l3n')".
"""

from dataclasses import dataclass, replace

from chts_core import removal
from chts_core.balance import Balanced, BalancedRegrowth, BalancedRemoval
from chts_core.checks import check_repr
from chts_core.choices import (
    RAMP_TO_3,
    RAMP_TO_9,
    Constant,
    Correlated,
    Cosine,
    Cubic,
    Cycling,
    Dense,
    DenseEnd,
    ErdosRenyi,
    Exponential,
    FullyConnected,
    Ramp,
    ReceptiveField,
    Regrowth,
    Removal,
    ScaleFree,
    Schedule,
    Sigmoid,
    SmallWorld,
    Sparsity,
    Staged,
    Topology,
    Turnover,
    value_at,
)
from chts_core.link_prediction import PREDICTORS
from chts_core.method_words import choices_in_words

__all__ = [
    "METHODS",
    "PRESETS",
    "RAMP_TO_3",
    "RAMP_TO_9",
    "REGROWTH_SCORES",
    "REMOVAL_SCORES",
    "Balanced",
    "BalancedRegrowth",
    "BalancedRemoval",
    "Constant",
    "Correlated",
    "Cosine",
    "Cubic",
    "Cycling",
    "Dense",
    "DenseEnd",
    "ErdosRenyi",
    "Exponential",
    "FullyConnected",
    "Method",
    "Ramp",
    "ReceptiveField",
    "Regrowth",
    "Removal",
    "ScaleFree",
    "Schedule",
    "Sigmoid",
    "SmallWorld",
    "Sparsity",
    "Staged",
    "Topology",
    "Turnover",
    "get_method",
    "value_at",
]


@dataclass(frozen=True)
class Method:
    """A method of dynamic sparse training: five choices (:mod:`chts_core.choices`)."""

    topology: Topology
    removal: Removal
    regrowth: Regrowth
    sparsity: Sparsity
    turnover: Turnover

    @property
    def is_dense(self) -> bool:
        """Whether a network always keeps all its links, as in FC."""
        return isinstance(self.sparsity, Dense)


# For GMP: pruned links may return with their last weights, which are ranked together with the existing weights.
RETURNING = Removal("magnitude", returning=True)
RETURNS = Regrowth("magnitude", soft=False, history=True)

_SET = Method(
    topology=ErdosRenyi(),
    removal=Removal("magnitude"),
    regrowth=Regrowth("random"),
    sparsity=Constant(),
    turnover=Turnover(zeta=Cosine(0.3)),
)
_RIGL = replace(_SET, regrowth=Regrowth("gradient", soft=False))
_GMP = replace(_SET, sparsity=Cubic(initial=0.5), turnover=Turnover(zeta=0.0))
# CHT always removes the smallest weights, and stops once the overlap of every layer has exceeded 0.9.
_CHT = Method(
    topology=ReceptiveField(r=0.25),
    removal=Removal("magnitude", percolate=True),
    regrowth=Regrowth("ch3_l3p", soft=False),
    sparsity=Constant(),
    turnover=Turnover(zeta=Cosine(0.3), early_stop=0.9, together=True),
)
# CHTs as in the paper for translation and language (Sections 3 and 4.3, Appendix J).
_CHTS = Method(
    topology=ReceptiveField(r=0.25),
    removal=Removal("magnitude", temperature=RAMP_TO_3, percolate=True),
    regrowth=Regrowth("ch2_l3n", history=True),
    sparsity=Constant(),
    turnover=Turnover(zeta=Cosine(0.3)),
)


def _with_decay(chts: Method) -> Method:
    """Make CHTss from CHTs: the density decays, and links are pruned by relative importance (Section 3.3)."""
    return replace(chts, removal=replace(chts.removal, prune="relative_importance"), sparsity=Sigmoid(initial=0.5))


METHODS: dict[str, Method] = {
    "fc": replace(_SET, topology=FullyConnected(), sparsity=Dense(), turnover=Turnover(zeta=0.0)),
    "set": _SET,
    "rigl": _RIGL,
    # EM&S (Yuan et al., 2021): an update keeps only the final number of links, and exchanges all others.
    "mest": replace(_SET, removal=Removal("mest"), sparsity=Staged(), turnover=Turnover(zeta="excess")),
    # Pruned links keep their weights, and return if these are among the largest (Appendix G.2).
    "gmp": replace(_GMP, removal=RETURNING, regrowth=RETURNS),
    "granet": replace(_RIGL, sparsity=Cubic(initial=0.5)),
    "cht": _CHT,
    "chts": _CHTS,
    "chtss": _with_decay(_CHTS),
}
# Increase this number when a name above gets a new meaning. Records contain it; a record without it has revision 1.
REVISION = 2

_TENTH = Turnover(zeta=Cosine(0.1))
_TO_9 = replace(_CHTS, removal=replace(_CHTS.removal, temperature=RAMP_TO_9))
_L3P = Regrowth("ch3_l3p", history=True)
# On images, the paper starts from the correlations of the inputs (Section 4.2). It removes links by relative importance
# on Fashion-MNIST, and by magnitude on the other data sets (Section 3.1).
_IMAGES = replace(_CHTS, topology=Correlated())
_FASHION = replace(_IMAGES, removal=replace(_CHTS.removal, score="relative_importance"))
# `chts` before revision 2: it removed links by relative importance, and new links started from zero.
_RI_ZEROS = replace(
    _CHTS,
    removal=replace(_CHTS.removal, score="relative_importance"),
    regrowth=Regrowth("ch2_l3n"),
)

# The published code starts new links from zero. The code for MLPs and the code for LLaMA skip the optimizer's step
# before an update. If the MLP script starts with more links than the target, it updates after each of the first 74 of
# 100 epochs, and begins its second stage after epoch 45.
_CODE_STAGES, _CODE_EXCESS = Staged(switch=0.62), Turnover("excess", stop=0.74, skip_optimizer=True)
# The Transformer script of the first published code.
_MLP_CODE = replace(
    _CHTS,
    topology=SmallWorld(0.25),
    regrowth=Regrowth("ch2_l3n"),
)
# The script of the second published code, for LLaMA.
_LLAMA_CODE = replace(
    _CHTS,
    topology=ReceptiveField(r=0.25, degree="uniform"),  # its script tries r from 0 to 1
    removal=Removal("magnitude", temperature=RAMP_TO_9),  # percolation is off
    regrowth=Regrowth("ch2_l3n", soft=False),  # the code's option `soft` takes the highest scores
    turnover=Turnover(Cosine(0.1), skip_optimizer=True),
)

# Versions of the methods: for single tasks, if the paper's methods differ between tasks, and for published code that
# differs from the paper.
PRESETS: dict[str, Method] = {
    "set/mlp_code": replace(_SET, turnover=Turnover(0.3, stop=0.99, skip_optimizer=True)),
    "set/paper_llama": replace(_SET, turnover=_TENTH),
    "rigl/paper_llama": replace(_RIGL, turnover=_TENTH),
    "mest/mlp_code": replace(METHODS["mest"], sparsity=_CODE_STAGES, turnover=_CODE_EXCESS),
    "mest/exchange": replace(METHODS["mest"], turnover=Turnover(Cosine(0.3))),
    "gmp/no_return": _GMP,
    "granet/paper_llama": replace(METHODS["granet"], turnover=_TENTH),
    "cht/paper_mlp": replace(_CHT, topology=Correlated()),
    "cht/paper_llama": replace(_CHT, turnover=replace(_CHT.turnover, zeta=Cosine(0.1))),
    "cht/mlp_code": replace(
        _CHT,
        topology=Correlated(),
        turnover=replace(_CHT.turnover, skip_optimizer=True),
    ),
    "cht/by_layer": replace(_CHT, topology=ErdosRenyi(), turnover=Turnover(Cosine(0.3), early_stop=0.9)),
    "chts/paper_mlp": _IMAGES,
    "chts/paper_mlp_l3p": replace(_IMAGES, regrowth=_L3P),
    "chts/paper_mlp_fashion": _FASHION,
    "chts/paper_mlp_fashion_l3p": replace(_FASHION, regrowth=_L3P),
    "chts/paper_translation": _CHTS,
    "chts/paper_llama": replace(_CHTS, turnover=_TENTH),
    "chts/paper_to_9": _TO_9,  # the ramp of Appendix H
    "chts/zeros": replace(_CHTS, regrowth=Regrowth("ch2_l3n")),
    "chts/ri_zeros": _RI_ZEROS,
    # The command for CHTs in the first code's README: more links than the target until the last update.
    "chts/r1_readme": replace(
        _IMAGES,
        removal=Removal("magnitude", percolate=True),
        regrowth=Regrowth("ch3_l3p"),
        sparsity=_CODE_STAGES,
        turnover=_CODE_EXCESS,
    ),
    "chts/mlp_code": _MLP_CODE,
    "chts/llama_code": _LLAMA_CODE,
    "chtss/paper_mlp": _with_decay(_IMAGES),
    "chtss/paper_mlp_fashion": _with_decay(_FASHION),
    "chtss/paper_translation": _with_decay(_CHTS),
    "chtss/paper_llama": _with_decay(replace(_CHTS, turnover=_TENTH)),
    "chtss/paper_to_9": _with_decay(_TO_9),
    "chtss/ri_zeros": replace(_RI_ZEROS, sparsity=Sigmoid(initial=0.5)),
    # The code's decay ends at 0.8 of the run, after our last update, so the target would be missed.
    "chtss/llama_code": replace(_with_decay(_LLAMA_CODE), sparsity=Sigmoid(initial=0.5, end=0.75)),
}

REMOVAL_SCORES = tuple(removal.SCORES)
REGROWTH_SCORES = ("random", "gradient", "magnitude", *PREDICTORS)


def get_method(method: str | Method) -> Method:
    """The method or preset with this name, or the given method, after a check of its choices.

    `method` can also be a name with new choices: "chts with topology=SmallWorld(beta=0.25), sparsity=Sigmoid(k=6.0)".
    This text is not executed as code.

    Raises:
        TypeError, ValueError: if `method` is neither a known name nor a Method, or if one of its choices is not valid.
    """
    known = METHODS | PRESETS
    if isinstance(method, str):
        name, given, changes = method.partition(" with ")
        if name not in known:
            raise ValueError(f"method is {name!r}; expected one of {', '.join(map(repr, known))}, or a Method.")
        method = known[name]
        if given:
            method = replace(method, **choices_in_words(changes, vars(method)))
    if not isinstance(method, Method):
        raise TypeError(
            f"method is a {type(method).__name__}; expected one of {', '.join(map(repr, known))}, or a Method."
        )
    for name, choice in vars(method).items():
        check_repr(choice, f"the method's {name}")
    removal, regrowth = method.removal, method.regrowth
    prune = removal.score if removal.prune is None else removal.prune
    for score, scores in ((removal.score, REMOVAL_SCORES), (prune, REMOVAL_SCORES), (regrowth.score, REGROWTH_SCORES)):
        if not callable(score) and score not in scores:
            raise ValueError(
                f"the method has score {score!r}; expected one of {', '.join(map(repr, scores))}, or a callable score "
                "of your own."
            )
    if regrowth.score == "magnitude" and not regrowth.history:
        raise ValueError(
            f"the method has {regrowth}, which regrows links by their last weights, but the method does not keep "
            "these weights; set history=True."
        )
    zeta, early_stop = method.turnover.zeta, method.turnover.early_stop
    if isinstance(zeta, str) and zeta != "excess":
        raise ValueError(f"zeta is {zeta!r}; expected a share of the links, a schedule, or 'excess'.")
    if removal.returning and (removal, regrowth, zeta) != (RETURNING, RETURNS, 0):
        raise ValueError(
            f"removal.returning is True with {removal}, {regrowth} and zeta {zeta}; expected {RETURNING}, {RETURNS} "
            "and zeta 0, because other choices would have no effect."
        )
    blocks = [choice.block for choice in (removal, regrowth) if isinstance(choice, BalancedRemoval | BalancedRegrowth)]
    if len(blocks) == 1 or len(set(blocks)) == 2:
        raise ValueError(
            f"the method has {removal} and {regrowth}; expected BalancedRemoval and BalancedRegrowth with the "
            "same block, because regrowth cannot balance blocks that the removal leaves too full."
        )
    if method.turnover.together and early_stop is None:
        raise ValueError("together is True but early_stop is None; give the overlap at which the layers stop.")
    if early_stop is not None and not 0 <= early_stop <= 1:
        raise ValueError(f"early_stop is {early_stop}; expected an overlap in [0, 1], or None to continue to the end.")
    return method
