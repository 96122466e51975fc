"""Figures in one style: safe for colour-blind readers, with labelled axes, and readable in print.

Each function returns a matplotlib Figure. `show` puts a figure on a page, and `figure.savefig("name.pdf")` writes it as
vector graphics.
"""

from chts_core.lab.figures.blocks import blocks
from chts_core.lab.figures.costs import cost_meter, layer_times, step_course
from chts_core.lab.figures.density import (
    DensityCourse,
    PruningStep,
    decay_design,
    excess_density,
    pruning_steps,
    sparsity_courses,
)
from chts_core.lab.figures.health import update_courses, vital_signs
from chts_core.lab.figures.history import timeline
from chts_core.lab.figures.language import loss_race
from chts_core.lab.figures.link_prediction import (
    local_community,
    regrowth_costs,
    score_agreement,
    score_maps,
    walk_frequencies,
)
from chts_core.lab.figures.networks import (
    Links,
    degree_histograms,
    degree_tails,
    mask_and_degrees,
    masks,
    network,
    pixel_correlations,
    small_worlds,
    topology_change,
)
from chts_core.lab.figures.overview import dense_and_sparse, stages
from chts_core.lab.figures.percolation import anp_by_epoch, anp_by_sparsity, neurons_by_layer, percolating_network
from chts_core.lab.figures.ranks import RankStep, ranks
from chts_core.lab.figures.recovery import hidden_links_found, learning_by_links, similar_partners
from chts_core.lab.figures.runs import (
    differences_ranked,
    draw_differences,
    images,
    learning_curves,
    overlap_and_itop,
    race,
    topology_update,
    two_compared,
)
from chts_core.lab.figures.sampling import (
    chances_and_entropy,
    overlap_by_rule,
    removal_chances,
    temperature_ramps,
    updates,
)
from chts_core.lab.figures.standing import verdicts
from chts_core.lab.figures.style import empty, new_figure, show, to_png
from chts_core.lab.figures.teaching import class_points
from chts_core.lab.figures.translation import (
    attention_head,
    attention_map,
    learning_rates,
    length_buckets,
    scores_by_method,
    translation_race,
)

__all__ = [
    "DensityCourse",
    "Links",
    "PruningStep",
    "RankStep",
    "anp_by_epoch",
    "anp_by_sparsity",
    "attention_head",
    "attention_map",
    "blocks",
    "chances_and_entropy",
    "class_points",
    "cost_meter",
    "decay_design",
    "degree_histograms",
    "degree_tails",
    "dense_and_sparse",
    "differences_ranked",
    "draw_differences",
    "empty",
    "excess_density",
    "hidden_links_found",
    "images",
    "layer_times",
    "learning_by_links",
    "learning_curves",
    "learning_rates",
    "length_buckets",
    "local_community",
    "loss_race",
    "mask_and_degrees",
    "masks",
    "network",
    "neurons_by_layer",
    "new_figure",
    "overlap_and_itop",
    "overlap_by_rule",
    "percolating_network",
    "pixel_correlations",
    "pruning_steps",
    "race",
    "ranks",
    "regrowth_costs",
    "removal_chances",
    "score_agreement",
    "score_maps",
    "scores_by_method",
    "show",
    "similar_partners",
    "small_worlds",
    "sparsity_courses",
    "stages",
    "step_course",
    "temperature_ramps",
    "timeline",
    "to_png",
    "topology_change",
    "topology_update",
    "translation_race",
    "two_compared",
    "update_courses",
    "updates",
    "verdicts",
    "vital_signs",
    "walk_frequencies",
]
