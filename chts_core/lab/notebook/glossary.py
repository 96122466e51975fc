"""The terms of the field in one table, each with its meaning, its formula, the code that computes it, and a test."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Term:
    """One term.

    meaning: what the term means, in one or more sentences.
    formula: LaTeX without dollar signs, empty if words are enough; bars are written as \\lvert, \\rvert.
    source: the place in the paper that defines the term, or another source.
    function: the dotted path of the code that computes it.
    test: the test of this code, as "file::function" below tests/.
    stage: the number of the notebook that teaches the term.
    """

    name: str
    meaning: str
    formula: str
    source: str
    function: str
    test: str
    stage: str


GLOSSARY = (
    Term(
        "mask",
        "A Boolean matrix that says which links of a layer exist. It has a row per output and a column per input.",
        r"A \in \{0, 1\}^{\text{out} \times \text{in}}",
        "notation",
        "chts_core.sparsifier.Sparsifier.masks",
        "test_sparsifier.py::test_exact_links_and_clean_absent_links_after_every_step",
        "01",
    ),
    Term(
        "density",
        "Share of the possible links that exist.",
        r"\dfrac{\text{links}}{\text{out} \cdot \text{in}}",
        "notation",
        "chts_core.topology.link_count",
        "test_topology.py::test_link_count_is_the_nearest_integer",
        "01",
    ),
    Term(
        "sparsity",
        "Share of the possible links that are absent.",
        r"s = 1 - \text{density}",
        "notation",
        "chts_core.distributions.uniform",
        "test_distributions.py::test_uniform_gives_every_layer_the_same_sparsity",
        "01",
    ),
    Term(
        "degree",
        "Number of links of a neuron. A neuron with far more links than the others is a hub.",
        r"d_i = \sum_j A_{ij}",
        "notation",
        "chts_core.diagnostics.degrees",
        "test_diagnostics.py::test_degrees_by_hand",
        "01",
    ),
    Term(
        "ER",
        "Erdős–Rényi network: its links are drawn uniformly at random.",
        "",
        "initial networks",
        "chts_core.topology.erdos_renyi",
        "test_topology.py::test_erdos_renyi_draws_every_network_equally_often",
        "01",
    ),
    Term(
        "BSW",
        "Bipartite small world: first, each node of the larger side is linked to its nearest nodes of the other side. "
        "Then a fraction β of the links is rewired at random.",
        "",
        "initial networks",
        "chts_core.topology.small_world",
        "test_topology.py::test_small_world_is_drawn_as_defined",
        "01",
    ),
    Term(
        "BSF",
        "Bipartite scale-free network: neurons join one after another and prefer neurons of high degree, so hubs "
        "appear.",
        r"p(k) \propto k^{-\gamma}",
        "initial networks",
        "chts_core.topology.scale_free",
        "test_topology.py::test_scale_free_has_the_degrees_of_the_model",
        "01",
    ),
    Term(
        "BRF",
        "Bipartite receptive field network: outputs prefer nearby inputs; the randomness r goes from 0 (local) to 1 "
        "(random).",
        r"p \propto (1 + \text{distance})^{-(1 - r) / r}",
        "bipartite receptive field network modelling",
        "chts_core.topology.receptive_field",
        "test_topology.py::test_one_draw_falls_off_with_the_ring_distance",
        "01",
    ),
    Term(
        "CSTI",
        "Correlated sparse topological initialisation: it links the pairs of features that correlate most "
        "strongly, so it needs the correlations between the inputs. On images, the paper's CHT, CHTs and CHTss start "
        "from this network.",
        r"\lvert r_{ij} \rvert",
        "Section 4.2",
        "chts_core.topology.correlated",
        "test_topology.py::test_correlated_by_hand",
        "01",
    ),
    Term(
        "small-worldness",
        "Clustering divided by path length, each relative to an ER network of the same size and number of links.",
        r"\dfrac{C / C_\text{ER}}{L / L_\text{ER}}",
        "Humphries and Gurney 2008",
        "chts_core.diagnostics.small_worldness",
        "test_diagnostics.py::test_small_worldness_is_the_ratio_of_its_parts",
        "01",
    ),
    Term(
        "L3 path",
        "A path of three links, the shortest possible path around a missing link of a bipartite network.",
        r"u - z_1 - z_2 - v",
        "link regrowth",
        "chts_core.link_prediction.ch3_l3p",
        "test_link_prediction.py::test_networks_without_l3_paths_score_zero",
        "02",
    ),
    Term(
        "local community",
        "The middle nodes z of all L3 paths around a missing link. Each of these nodes has i links inside the "
        "community and e links outside the community, not counting its links to the two ends of the missing link.",
        r"i_z, \; e_z",
        "link regrowth",
        "chts_core.link_prediction.ch2_l3n",
        "test_link_prediction.py::test_scores_are_the_definition",
        "02",
    ),
    Term(
        "CH3-L3p",
        "Path-based score of a missing link: an L3 path counts less if its middle nodes have links outside the "
        "local community. CHT uses this score.",
        r"\sum_\text{paths} \dfrac{1}{\sqrt{(1 + e_{z_1})(1 + e_{z_2})}}",
        "link regrowth",
        "chts_core.link_prediction.ch3_l3p",
        "test_link_prediction.py::test_scores_by_hand",
        "02",
    ),
    Term(
        "CH3-L3n",
        "Node-based score that only penalises links from the local community to other nodes.",
        r"\sum_z \dfrac{1}{1 + e_z}",
        "node-based link regrowth",
        "chts_core.link_prediction.ch3_l3n",
        "test_link_prediction.py::test_scores_by_hand",
        "02",
    ),
    Term(
        "CH2-L3n",
        "Node-based score that also rewards links within the local community. CHTs and CHTss use this score.",
        r"\sum_z \dfrac{1 + i_z}{1 + e_z}",
        "node-based link regrowth",
        "chts_core.link_prediction.ch2_l3n",
        "test_link_prediction.py::test_scores_by_hand",
        "02",
    ),
    Term(
        "weight magnitude (WM)",
        "Removal score: the links with the smallest absolute weights are removed first.",
        r"\lvert W_{ij} \rvert",
        "link removal",
        "chts_core.removal.magnitude",
        "test_removal.py::test_magnitude_is_the_absolute_weight",
        "03",
    ),
    Term(
        "relative importance (RI)",
        "Removal score: the link's share of all absolute weights at its input, plus its share of all absolute "
        "weights at its output.",
        r"\dfrac{\lvert W_{ij} \rvert}{\sum_k \lvert W_{kj} \rvert} + \dfrac{\lvert W_{ij} \rvert}"
        r"{\sum_k \lvert W_{ik} \rvert}",
        "link removal",
        "chts_core.removal.relative_importance",
        "test_removal.py::test_relative_importance_by_hand",
        "03",
    ),
    Term(
        "soft rule",
        "A rule that draws links at random and without replacement, with probabilities that depend on the scores. "
        "The hard rule takes the links with the highest scores.",
        r"p \propto \text{score}^T",
        "Cannistraci-Hebb soft removal and regrowth",
        "chts_core.sampling.keep",
        "test_sampling.py::test_one_soft_draw_follows_score_to_the_temperature",
        "03",
    ),
    Term(
        "softness δ, temperature T",
        "Two measures of how strictly a soft draw follows the scores. The draw is uniform at T = 0. For T → ∞, it "
        "takes the links with the highest scores.",
        r"T = \dfrac{\delta}{1 - \delta}",
        "Cannistraci-Hebb soft removal and regrowth",
        "chts_core.sampling.temperature_from_softness",
        "test_sampling.py::test_temperature_of_a_softness",
        "03",
    ),
    Term(
        "last weight",
        "The weight that a link had when it was removed, also called historical weight. In CHTs and CHTss, a regrown "
        "link starts with its last weight, if it has one. In GMP, the last weights decide which links return.",
        "",
        "Appendices J and G.2",
        "chts_core.engine.weights.PastWeights.recall",
        "test_sparsifier.py::test_a_link_that_comes_back_has_its_former_weight",
        "06",
    ),
    Term(
        "ELM overlap",
        "Share of the regrown links that the same update had removed. If this share is near 1, the network is stuck in "
        "an epitopological local minimum.",
        r"\dfrac{\lvert \text{removed} \cap \text{regrown} \rvert}{\lvert \text{regrown} \rvert}",
        "epitopological local minima",
        "chts_core.diagnostics.overlap",
        "test_diagnostics.py::test_overlap_by_hand",
        "03",
    ),
    Term(
        "ITOP rate",
        "Share of all possible links that were ever active during the run.",
        "",
        "measures",
        "chts_core.diagnostics.itop_rate",
        "test_diagnostics.py::test_itop_rate_by_hand",
        "03",
    ),
    Term(
        "inactive neuron",
        "A hidden neuron that has lost all its incoming or all its outgoing links.",
        "",
        "Figure 2 c",
        "chts_core.percolation.active_neurons",
        "test_percolation.py::test_links_from_a_neuron_without_input_go",
        "04",
    ),
    Term(
        "incomplete link",
        "A link from or to an inactive neuron. Such a link leads nowhere, so percolation removes it.",
        "",
        "Figure 2 d",
        "chts_core.percolation.percolate",
        "test_percolation.py::test_one_dead_end_can_take_a_whole_path_with_it",
        "04",
    ),
    Term(
        "active neurons",
        "Share of the output neurons that are active now. The column anp of a history holds this share for each layer.",
        r"\dfrac{\text{active now}}{\text{all}}",
        "Figure 2 c",
        "chts_core.sparsifier.Sparsifier.active_neurons",
        "test_sparsifier.py::test_measures_over_all_layers",
        "04",
    ),
    Term(
        "ANP",
        "Active neuron percentage: the number of output neurons that are active after an update or a run, divided by "
        "the number that were active before it. In this project, ANP never means a share of all neurons.",
        r"\dfrac{\text{active after}}{\text{active before}}",
        "MLP table",
        "chts_core.percolation.active_neurons",
        "test_percolation.py::test_links_from_a_neuron_without_input_go",
        "04",
    ),
    Term(
        "turnover ζ",
        "Share of the links that an update removes and regrows; it may fall along a cosine.",
        r"\dfrac{\zeta}{2} \left(1 + \cos \dfrac{\pi t}{t_\text{end}}\right)",
        "hyperparameters",
        "chts_core.schedules.cosine_turnover",
        "test_schedules.py::test_cosine_turnover_at_computed_points",
        "05",
    ),
    Term(
        "sigmoid decay",
        "Sparsity rises along a sigmoid, slowly at both ends. The curve is rescaled, so it begins exactly at the "
        "initial value and ends exactly at the final value; u runs from 0 to 1. CHTss uses this decay.",
        r"s_i + (s_f - s_i) \left[\dfrac12 + "
        r"\dfrac{\sigma(k(2u - 1)) - \frac12}{\sigma(k) - \sigma(-k)}\right]",
        "Equation 1 (the poster has s_i − s_f)",
        "chts_core.schedules.sigmoid_sparsity",
        "test_schedules.py::test_sigmoid_at_computed_points",
        "05",
    ),
    Term(
        "cubic decay",
        "Sparsity rises fastest at the start; u runs from 0 to 1. GMP and GraNet use this decay.",
        r"s_f + (s_i - s_f)(1 - u)^3",
        "baselines",
        "chts_core.schedules.cubic_sparsity",
        "test_schedules.py::test_cubic_at_computed_points",
        "05",
    ),
    Term(
        "prune and remove",
        "An update takes a link away for one of two reasons. It prunes the link to lower the number of links, or it "
        "removes the link to exchange it for a new one. Pruning and removal may have different scores: CHTss prunes by "
        "relative importance and removes by weight magnitude.",
        "",
        "Section 3.3",
        "chts_core.choices.Removal",
        "test_sparsifier.py::test_pruning_and_removal_each_go_by_their_own_score",
        "05",
    ),
    Term(
        "excess, EM&S",
        "Elastic mutation with a soft bound on memory: the network holds more links than its target number. An update "
        "keeps only the best links, up to the target number. It removes all other links, which are the excess, and "
        "then regrows links. MEST uses this method.",
        "",
        "Yuan et al., 2021",
        "chts_core.schedules.staged_sparsity",
        "test_sparsifier.py::test_a_turnover_of_the_excess_keeps_the_final_number_and_regrows_the_rest",
        "06",
    ),
    Term(
        "five choices",
        "The choices that define a method: the initial network, which links are removed, which links are regrown, "
        "how many links there are, and how many are exchanged.",
        "",
        "Figure 2",
        "chts_core.methods.Method",
        "test_methods.py::test_what_a_method_does_otherwise_than_its_relative",
        "06",
    ),
    Term(
        "subword",
        "A frequent piece of a word. Words that are not in the vocabulary are composed of smaller pieces.",
        "",
        "Sennrich et al., 2016",
        "chts_core.lab.data.Vocabulary.encode",
        "lab/test_subwords.py::test_the_most_frequent_neighbours_are_joined_at_every_step",
        "08b",
    ),
    Term(
        "attention head",
        "A part of an attention block that computes a weighted mean of the values of all tokens. The better a key fits "
        "the query, the more its value counts. For percolation, queries and keys form a pair, because they are "
        "multiplied. The value layer and the output layer form a chain, because the output layer reads the values.",
        r"\text{softmax}\left(\dfrac{Q K^T}{\sqrt{d}}\right) V",
        "Vaswani et al., 2017",
        "chts_core.lab.models.Transformer.attention",
        "lab/test_transformer.py::test_attentions_are_what_a_loop_computes",
        "08",
    ),
    Term(
        "iterative warm-up",
        "After an update that changed the topology, the learning rate starts low and rises in equal steps to the value "
        "of its schedule, because Adam has no information about the new links yet. Translators and language models "
        "use this warm-up.",
        "",
        "Tables 5 and 6",
        "chts_core.lab.train.loop.share_after_update",
        "lab/test_translation.py::test_the_learning_rate_comes_back_after_an_update",
        "08",
    ),
    Term(
        "beam search",
        "A search that keeps several beginnings of a translation in parallel instead of only the most probable one. "
        "The divisor in the formula compensates for the lower probability of longer translations.",
        r"\dfrac{\log p}{((5 + n)/6)^{0.6}}",
        "Wu et al., 2016",
        "chts_core.lab.decoding.beam_search",
        "lab/test_decoding.py::test_beam_search_equals_its_definition",
        "08b",
    ),
    Term(
        "BLEU",
        "A score of a translation. It rises with the share of words, word pairs, triples and quadruples of the "
        "translation that are also in the reference, which is the given translation.",
        r"100 \, B \, (p_1 p_2 p_3 p_4)^{1/4}",
        "Table 1",
        "chts_core.lab.scores.bleu",
        "lab/test_scores.py::test_bleu_is_its_definition_and_between_0_and_100",
        "08b",
    ),
    Term(
        "perplexity",
        "A perplexity of k means that each guess of the model is as hard as a guess among k equally likely tokens.",
        r"e^{-\frac{1}{n} \sum_i \log p_i}",
        "Table 2",
        "chts_core.lab.train.language.validation_loss",
        "lab/test_language.py::test_the_loss_is_cross_entropy_per_token",
        "09",
    ),
    Term(
        "packing",
        "A preparation step that joins all documents, each with its end token, and cuts the result into blocks without "
        "padding.",
        "",
        "appendix",
        "chts_core.lab.data.pack",
        "lab/test_packing.py::test_every_token_but_the_first_is_predicted_once",
        "09",
    ),
    Term(
        "grouped queries",
        "Several query heads share one head of keys and values.",
        "",
        "Ainslie et al., 2023",
        "chts_core.percolation.Attention",
        "test_percolation.py::test_a_key_is_shared_by_the_queries_of_its_group",
        "09",
    ),
)


def rows() -> list[dict[str, str]]:
    """The glossary as rows of a Markdown table."""
    return [
        {
            "term, stage": f"**{term.name}** <br> {term.stage}",
            "meaning": term.meaning,
            "formula, source": f"${term.formula}$ <br> {term.source}" if term.formula else term.source,
            "function, test": f"{_name(term.function.removeprefix('chts_core.'))} <br> {_name(term.test)}",
        }
        for term in GLOSSARY
    ]


def _name(name: str) -> str:
    """Format a name as code with possible line breaks after dots and underscores, so that the table fits on a page."""
    breakable = re.sub("(::|[._])", r"\1<wbr>", name)
    return f"<code>{breakable}</code>"
