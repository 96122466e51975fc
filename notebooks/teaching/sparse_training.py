# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Assignment: sparse training, from a network to an experiment
#
# Eleven questions, 30 points, about three hours. Stages 01 to 07 teach everything that you need. You may use torch and
# `chts_core`, except where a question says that you must write something yourself.
#
# - **Your networks are your own.** The notebook makes them from your id, so your answers differ from the answers of
#   other students.
# - Write your code where a cell asks for it, and run the notebook from top to bottom.
# - A check follows each of the questions 1 to 10. If the check prints nothing, your answer has passed the tests in this
#   file. After you hand in this file, further tests check your answers, also with other numbers.
# - Hand in this file, with your id in its name.

# %%
import torch

import chts_core as chts
from chts_core.lab import data
from chts_core.lab.teach.assignment import generator_of
from chts_core.lab.train import images

# %%
student = ""  # write your id between the quotes, exactly as your teacher knows it

# %% nbgrader={"grade": false, "grade_id": "who", "locked": true, "schema_version": 3, "solution": false, "task": false}
generator = generator_of(student, "count")
mask = torch.rand(6, 8, generator=generator) < 0.4
print(mask.int())

# %% [markdown]
# ## 1 · Count (2 points)
#
# `mask` is a layer with 6 outputs and 8 inputs. How many links does the layer have, what is its density, and how many
# links does each output and each input have? Set `links` (a whole number), `density` (a fraction), `output_degrees` and
# `input_degrees` (lists of whole numbers).

# %% nbgrader={"grade": false, "grade_id": "count", "locked": false, "schema_version": 3, "solution": true, "task": false}
links = density = output_degrees = input_degrees = None
### BEGIN SOLUTION
links = int(mask.sum())
density = links / mask.numel()
output_degrees, input_degrees = mask.sum(dim=1).tolist(), mask.sum(dim=0).tolist()
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "1-count", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
assert isinstance(links, int), f"links is {links!r}; expected a whole number."
assert 0 <= density <= 1, f"density is {density}; expected a fraction of all possible links."
assert len(output_degrees) == 6, (
    f"output_degrees has {len(output_degrees)} numbers; expected one for each of the 6 outputs. The rows are outputs."
)
assert len(input_degrees) == 8, (
    f"input_degrees has {len(input_degrees)} numbers; expected one for each of the 8 inputs. The columns are inputs."
)
### BEGIN HIDDEN TESTS
own = torch.rand(6, 8, generator=generator_of(student, "count")) < 0.4
assert links == int(own.sum()), "links is not the number of links of your mask."
assert abs(density - links / 48) < 0.005, "the density is the number of links as a share of all 48 possible links."
outputs, inputs = chts.diagnostics.degrees(own)
assert list(output_degrees) == outputs.tolist(), "the degree of an output is the number of links in its row."
assert list(input_degrees) == inputs.tolist(), "the degree of an input is the number of links in its column."
### END HIDDEN TESTS

# %% [markdown]
# ## 2 · How far is an input? (2 points)
#
# In a receptive field, output $i$ looks at position $c_i = (i + \tfrac12)\,\frac{\text{in}}{\text{out}} - \tfrac12$ on
# the input side, and the inputs lie on a ring: the last input is next to the first. Write `distance`, which returns the
# distance between input $j$ and $c_i$ on the ring.


# %% nbgrader={"grade": false, "grade_id": "distance", "locked": false, "schema_version": 3, "solution": true, "task": false}
def distance(i: int, j: int, out_features: int, in_features: int) -> float:
    """The distance on the ring of inputs between input j and the position that output i looks at."""
    ### BEGIN SOLUTION
    centre = (i + 0.5) * in_features / out_features - 0.5
    straight = abs(j - centre)
    return min(straight, in_features - straight)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "2a-distance", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
assert distance(0, 0, 4, 8) == 0.5, "output 0 of 4 looks at position 0.5, so its distance from input 0 is 0.5."
assert distance(0, 7, 4, 8) == 1.5, (
    "input 7 is next to input 0 on the ring, so the short way from input 7 to position 0.5 has a length of 1.5."
)

# %% nbgrader={"grade": true, "grade_id": "2b-distance", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
# After you hand in this file, further tests check other layers.
### BEGIN HIDDEN TESTS
for out_features, in_features in ((5, 5), (3, 10), (12, 4)):
    for i in range(out_features):
        centre = (i + 0.5) * in_features / out_features - 0.5
        for j in range(in_features):
            expected = min(abs(j + turn - centre) for turn in (-in_features, 0, in_features))
            assert abs(distance(i, j, out_features, in_features) - expected) < 1e-6, (
                f"distance({i}, {j}, {out_features}, {in_features}) should be {expected:g}."
            )
### END HIDDEN TESTS

# %% [markdown]
# ## 3 · A score by paths (3 points)
#
# CH2 also has a form that sums over paths. Write this score yourself, for one missing link between output $u$ and input
# $v$. Each path of three links $u - z_1 - z_2 - v$ has the weight
#
# $$\sqrt{\frac{(1 + i_{z_1})(1 + i_{z_2})}{(1 + e_{z_1})(1 + e_{z_2})}}$$
#
# and the score is the sum of the weights of all these paths. As in stage 02, $i_z$ counts the links from $z$ to other
# nodes on such paths, and $e_z$ counts the other links of $z$. Neither number includes links to $u$ or $v$.


# %% nbgrader={"grade": false, "grade_id": "score", "locked": false, "schema_version": 3, "solution": true, "task": false}
def score(mask: torch.Tensor, u: int, v: int) -> float:
    """CH2-L3p of the missing link between output u and input v."""
    ### BEGIN SOLUTION
    paths = [
        (z1, z2)
        for z1 in mask[u].nonzero().flatten().tolist()
        for z2 in mask[:, v].nonzero().flatten().tolist()
        if mask[z2, z1]
    ]
    inputs, outputs = {z1 for z1, _ in paths}, {z2 for _, z2 in paths}

    def ratio(neighbours: set[int], community: set[int]) -> float:
        inside = len(neighbours & community)
        return (1 + inside) / (1 + len(neighbours) - inside)

    of_input = {z: ratio(set(mask[:, z].nonzero().flatten().tolist()) - {u}, outputs) for z in inputs}
    of_output = {z: ratio(set(mask[z].nonzero().flatten().tolist()) - {v}, inputs) for z in outputs}
    return sum((of_input[z1] * of_output[z2]) ** 0.5 for z1, z2 in paths)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "3a-score", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
small = torch.tensor([[1, 1, 0], [1, 1, 1]], dtype=torch.bool)
assert abs(score(small, 0, 2) - 2 * 6**0.5) < 1e-4, (
    "two paths join output 0 and input 2: they pass through output 1 and through input 0 or 1. For each of these "
    "inputs, i is 1. For output 1, i is 2. All e are 0, so the weight of each path is the square root of 2 · 3."
)

# %% nbgrader={"grade": true, "grade_id": "3b-score", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
# After you hand in this file, further tests check networks that are made from your id.
### BEGIN HIDDEN TESTS
from unittest.mock import patch

for number in range(3):
    drawn = torch.rand(6, 7, generator=generator_of(student, f"score {number}")) < 0.4
    for u, v in (~drawn).nonzero().tolist():
        paths = [(a, b) for a in range(7) for b in range(6) if drawn[u, a] and drawn[b, a] and drawn[b, v]]
        expected = 0.0
        for a, b in paths:
            inside_a = sum(bool(drawn[other, a]) for other in {end for _, end in paths})
            inside_b = sum(bool(drawn[b, other]) for other in {start for start, _ in paths})
            outside_a, outside_b = int(drawn[:, a].sum()) - 1 - inside_a, int(drawn[b].sum()) - 1 - inside_b
            expected += ((1 + inside_a) * (1 + inside_b) / ((1 + outside_a) * (1 + outside_b))) ** 0.5
        with patch.object(
            chts.link_prediction,
            "ch2_l3p",
            side_effect=AssertionError("you called the function of the core; write the score yourself."),
        ):
            got = score(drawn.clone(), u, v)
        assert abs(got - expected) < 1e-3, (
            f"the score of output {u} and input {v} in\n{drawn.int().tolist()}\nshould be {expected:.3f}."
        )
### END HIDDEN TESTS

# %% [markdown]
# ## 4 · Soft sampling (3 points)
#
# At the temperature $T$, the first link is drawn with a probability proportional to its score to the power $T$. Write
# `probabilities`. Scores are never negative. A link with the score 0 is never drawn as long as another score is not 0.
# Scores can be tiny, and a computer rounds the ninth power of a tiny number to 0.


# %% nbgrader={"grade": false, "grade_id": "probabilities", "locked": false, "schema_version": 3, "solution": true, "task": false}
def probabilities(scores: torch.Tensor, temperature: float) -> torch.Tensor:
    """For each link, the probability that it is drawn first."""
    ### BEGIN SOLUTION
    return torch.softmax(temperature * scores.log(), dim=0)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "4a-probabilities", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
pair = torch.tensor([1.0, 3.0])
assert torch.allclose(probabilities(pair, 1.0), torch.tensor([0.25, 0.75])), (
    "at T = 1, the scores 1 and 3 have the probabilities 1/4 and 3/4."
)
assert torch.allclose(probabilities(pair, 2.0), torch.tensor([0.1, 0.9])), (
    "at T = 2, the scores 1 and 3 have the probabilities 1/10 and 9/10."
)

# %% nbgrader={"grade": true, "grade_id": "4b-probabilities", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
# After you hand in this file, further tests check other scores.
### BEGIN HIDDEN TESTS
with_zero = probabilities(torch.tensor([0.0, 1.0, 1.0]), 3.0)
assert torch.allclose(with_zero, torch.tensor([0.0, 0.5, 0.5])), (
    "a link with the score 0 has a probability of 0 if another score is larger than 0."
)
tiny = probabilities(torch.tensor([1e-30, 2e-30]), 9.0)
assert torch.allclose(tiny, torch.tensor([1 / 513, 512 / 513]), atol=1e-4), (
    f"the scores 1e-30 and 2e-30 gave {tiny.tolist()} at T = 9, because the computer rounded their powers to 0. "
    "Work with logarithms."
)
drawn = torch.rand(20, generator=generator_of(student, "soft")) + 0.1
assert torch.allclose(probabilities(drawn, 1.7), drawn**1.7 / (drawn**1.7).sum(), atol=1e-5)
### END HIDDEN TESTS

# %% [markdown]
# ## 5 · Which links are removed? (2 points)
#
# `weight` is a layer of your own with 10 links. An update removes the three least important links. Which links are the
# least important by **magnitude**, and which are the least important by **relative importance**? Set
# `gone_by_magnitude` and `gone_by_importance`, two Boolean tensors with the shape of `weight`. Each tensor is true at
# the links that the update removes.

# %% nbgrader={"grade": false, "grade_id": "weights", "locked": true, "schema_version": 3, "solution": false, "task": false}
generator = generator_of(student, "removal")
linked = chts.topology.erdos_renyi(4, 5, 0.5, generator=generator)
weight = torch.randn(4, 5, generator=generator) * linked
print(weight)

# %% nbgrader={"grade": false, "grade_id": "removal", "locked": false, "schema_version": 3, "solution": true, "task": false}
gone_by_magnitude = gone_by_importance = None


### BEGIN SOLUTION
def lowest(scores: torch.Tensor) -> torch.Tensor:
    return scores <= scores[weight != 0].sort().values[2]


gone_by_magnitude = lowest(weight.abs()) & (weight != 0)
gone_by_importance = lowest(chts.removal.relative_importance(weight)) & (weight != 0)
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "5a-magnitude", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
assert gone_by_magnitude.shape == (4, 5), (
    f"gone_by_magnitude has the shape {tuple(gone_by_magnitude.shape)}; expected (4, 5), the shape of weight."
)
assert gone_by_magnitude.dtype == torch.bool, (
    f"gone_by_magnitude has the type {gone_by_magnitude.dtype}; expected a Boolean tensor with the values true and false."
)
### BEGIN HIDDEN TESTS
generator = generator_of(student, "removal")
own = chts.topology.erdos_renyi(4, 5, 0.5, generator=generator)
own = torch.randn(4, 5, generator=generator) * own
limit = own[own != 0].abs().sort().values[2]
assert torch.equal(gone_by_magnitude, (own.abs() <= limit) & (own != 0)), (
    "gone_by_magnitude is not right; expected the three links whose weights are nearest to 0."
)
### END HIDDEN TESTS

# %% nbgrader={"grade": true, "grade_id": "5b-importance", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
assert gone_by_importance.shape == (4, 5), (
    f"gone_by_importance has the shape {tuple(gone_by_importance.shape)}; expected (4, 5), the shape of weight."
)
assert gone_by_importance.dtype == torch.bool, (
    f"gone_by_importance has the type {gone_by_importance.dtype}; expected a Boolean tensor with the values true and false."
)
### BEGIN HIDDEN TESTS
generator = generator_of(student, "removal")
own = chts.topology.erdos_renyi(4, 5, 0.5, generator=generator)
own = torch.randn(4, 5, generator=generator) * own
importance = own.abs() / own.abs().sum(0).clamp(min=1e-9) + own.abs() / own.abs().sum(1, keepdim=True).clamp(min=1e-9)
limit = importance[own != 0].sort().values[2]
assert torch.equal(gone_by_importance, (importance <= limit) & (own != 0)), (
    "gone_by_importance is not right; expected the three links with the smallest relative importance. The relative "
    "importance of a link is its share of the |weights| of its input plus its share of the |weights| of its output."
)
### END HIDDEN TESTS

# %% [markdown]
# ## 6 · Percolation (3 points)
#
# A hidden neuron without incoming links or without outgoing links is inactive, and its links are of no use. Write
# `percolated` yourself. The function gets the masks of two consecutive layers. It returns these masks without the links
# of the inactive neurons between the layers. Do not change the masks that the function gets.


# %% nbgrader={"grade": false, "grade_id": "percolated", "locked": false, "schema_version": 3, "solution": true, "task": false}
def percolated(first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Masks (hidden, inputs) and (outputs, hidden) without the links of inactive hidden neurons."""
    ### BEGIN SOLUTION
    active = first.any(dim=1) & second.any(dim=0)
    return first & active[:, None], second & active
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "6a-percolated", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
first, second = torch.tensor([[1, 1], [0, 1], [0, 0]]).bool(), torch.tensor([[1, 0, 1], [0, 0, 0]]).bool()
swept = percolated(first.clone(), second.clone())
assert swept[0].int().tolist() == [[1, 1], [0, 0], [0, 0]], (
    "hidden neuron 1 has no outgoing links, so percolation cuts its incoming links."
)
assert swept[1].int().tolist() == [[1, 0, 0], [0, 0, 0]], (
    "hidden neuron 2 has no incoming links, so percolation cuts its outgoing links."
)

# %% nbgrader={"grade": true, "grade_id": "6b-percolated", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
# After you hand in this file, further tests check networks that are made from your id.
### BEGIN HIDDEN TESTS
from unittest.mock import patch

chain = chts.percolation.LayerGraph(chains=(("first", "second"),))
generator = generator_of(student, "percolation")
for hidden in (4, 9, 30):
    given = {
        "first": torch.rand(hidden, 6, generator=generator) < 0.2,
        "second": torch.rand(5, hidden, generator=generator) < 0.2,
    }
    expected = chts.percolation.percolate(given, chain)
    copies = [mask.clone() for mask in given.values()]
    with patch.object(
        chts.percolation,
        "percolate",
        side_effect=AssertionError("you called the function of the core; write the percolation yourself."),
    ):
        swept = percolated(*copies)
    assert all(map(torch.equal, copies, given.values())), (
        "your function changed the masks that it was given; work on copies."
    )
    assert all(map(torch.equal, swept, expected.values())), (
        f"for a network with {hidden} hidden neurons, your masks are not the masks that percolation leaves."
    )
### END HIDDEN TESTS

# %% [markdown]
# ## 7 · Density decay (2 points)
#
# CHTss trains a layer of 200 inputs and 100 outputs. The sparsity of the layer rises along the sigmoid with $k = 6$,
# from 0.5 at step 0 to `final` at step `end`. How many links does the layer have half-way to `end`, and how many does
# it have at three quarters of the way? Set `half_way` and `three_quarters` (whole numbers, rounded).

# %% nbgrader={"grade": false, "grade_id": "decay-data", "locked": true, "schema_version": 3, "solution": false, "task": false}
generator = generator_of(student, "decay")
final = 0.8 + 0.01 * int(torch.randint(20, (1,), generator=generator))
end = 400 * int(torch.randint(1, 20, (1,), generator=generator))
print(f"final sparsity {final:.2f}, reached at step {end}")

# %% nbgrader={"grade": false, "grade_id": "decay", "locked": false, "schema_version": 3, "solution": true, "task": false}
half_way = three_quarters = None
### BEGIN SOLUTION
half_way, three_quarters = (
    round(20_000 * (1 - chts.schedules.sigmoid_sparsity(step, 0, end, 0.5, final, 6.0)))
    for step in (end // 2, 3 * end // 4)
)
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "7-decay", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
assert 0 < three_quarters < half_way < 10_000, (
    f"half_way is {half_way} and three_quarters is {three_quarters}; the number of links falls with time, and it is "
    "less than half of the 20,000 possible links."
)
### BEGIN HIDDEN TESTS
import math

generator = generator_of(student, "decay")
own_final = 0.8 + 0.01 * int(torch.randint(20, (1,), generator=generator))
assert abs(half_way - 20_000 * (1 - (0.5 + own_final) / 2)) <= 1, (
    "half_way is not right; half-way, the sparsity is the mean of 0.5 and final."
)
sigmoid = [1 / (1 + math.exp(-x)) for x in (-6, 3, 6)]
share = (sigmoid[1] - sigmoid[0]) / (sigmoid[2] - sigmoid[0])
assert abs(three_quarters - 20_000 * (0.5 - (own_final - 0.5) * share)) <= 1, (
    "three_quarters is not right; at three quarters of the way, the sigmoid has the value σ(k/2)."
)
### END HIDDEN TESTS

# %% [markdown]
# ## 8 · An experiment (3 points)
#
# Does soft regrowth by link prediction beat random regrowth at 98 % sparsity? Train `"chts"` and `"set"` on the digits
# with each of your three seeds and the recipe below. Set
#
# - `accuracies`: the test accuracies of each method, in the order of the seeds, as a dict
#   `{"chts": [..., ..., ...], "set": [...]}`;
# - `mean_difference`: the accuracy of CHTs minus the accuracy of SET, averaged over the seeds;
# - `half_width`: the half-width of the 95 % confidence interval of this mean, $t \cdot s / \sqrt{n}$, where $s$ is the
#   standard deviation of the differences (divide by $n - 1$). For three runs, $t$ is 4.303;
# - `verdict`: the name of the better method, `"chts"` or `"set"`, if the interval does not contain 0, and otherwise
#   `"undecided"`.
#
# Any verdict can be right, because it depends on your numbers.

# %% nbgrader={"grade": false, "grade_id": "recipe", "locked": true, "schema_version": 3, "solution": false, "task": false}
recipe = images.Recipe(hidden=128, epochs=12, learning_rate=0.05)
digits = data.load_images("digits")
seeds = torch.randint(10_000, (3,), generator=generator_of(student, "experiment")).tolist()
print("your seeds:", seeds)

# %% nbgrader={"grade": false, "grade_id": "experiment", "locked": false, "schema_version": 3, "solution": true, "task": false}
accuracies = mean_difference = half_width = verdict = None
# One run: images.train(digits, "chts", 0.98, recipe, seed=seeds[0]).test_accuracy
### BEGIN SOLUTION
accuracies = {
    method: [images.train(digits, method, 0.98, recipe, seed=seed).test_accuracy for seed in seeds]
    for method in ("chts", "set")
}
differences = torch.tensor(accuracies["chts"]) - torch.tensor(accuracies["set"])
mean_difference = float(differences.mean())
half_width = 4.303 * float(differences.std() / len(seeds) ** 0.5)
verdict = "undecided"
if abs(mean_difference) > half_width:
    verdict = "chts" if mean_difference > 0 else "set"
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "8a-runs", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
assert sorted(accuracies) == ["chts", "set"], (
    f"accuracies has the keys {sorted(accuracies)}; expected the two methods 'chts' and 'set'."
)
assert all(len(values) == 3 for values in accuracies.values()), (
    "expected three accuracies for each method, one for each seed."
)
### BEGIN HIDDEN TESTS
own_seeds = torch.randint(10_000, (3,), generator=generator_of(student, "experiment")).tolist()
for method, values in accuracies.items():
    again = images.train(digits, method, 0.98, recipe, seed=own_seeds[1]).test_accuracy
    assert abs(again - values[1]) < 0.03, (
        f"{method} with your second seed, {own_seeds[1]}, reaches {again:.3f} here, but your list has {values[1]:.3f}."
    )
### END HIDDEN TESTS

# %% nbgrader={"grade": true, "grade_id": "8b-statistics", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
assert verdict in ("chts", "set", "undecided"), f"the verdict is {verdict!r}; expected 'chts', 'set' or 'undecided'."
### BEGIN HIDDEN TESTS
paired = torch.tensor(accuracies["chts"], dtype=torch.float64) - torch.tensor(accuracies["set"], dtype=torch.float64)
assert abs(mean_difference - float(paired.mean())) < 1e-4, (
    "mean_difference is not the mean difference of your accuracies."
)
error = float(paired.std() / 3**0.5)
assert error < 1e-6 or abs(half_width - error) > 1e-4, (
    "half_width is not right, because it is the standard error; multiply the standard error by t."
)
assert error < 1e-6 or abs(half_width - 1.96 * error) > 1e-4, (
    "you used 1.96, which is right only for many runs; for three runs, t is 4.303."
)
assert abs(half_width - 4.303 * error) < 5e-4, (
    f"half_width is {half_width:.4f}, but the half-width of the interval is {4.303 * error:.4f}."
)
decided = abs(mean_difference) > half_width
expected = ("chts" if mean_difference > 0 else "set") if decided else "undecided"
assert verdict == expected, f"with {mean_difference:.4f} ± {half_width:.4f}, the verdict is {expected}."
### END HIDDEN TESTS

# %% [markdown]
# ## 9 · A friend's update (3 points)
#
# A friend wrote one update of SET. "It runs," the friend says, "but the number of links of the network changes, and new
# links do not start at zero." Some lines are wrong. Set `faults` to the letters of these lines, for example
# `{"A", "E"}`. Then write `update`, which performs the update correctly:
#
# - it removes the share `zeta` of the existing links, and this number of links is rounded. It removes the links with
#   the smallest |weight|;
# - it draws the same number of new links from the places that have no link after the removal. All these places are
#   equally likely, so a removed link may come back;
# - it sets weight and momentum to 0 at every new link and at every place without a link. The other links keep their
#   weight and momentum.


# %% nbgrader={"grade": false, "grade_id": "friend", "locked": true, "schema_version": 3, "solution": false, "task": false}
def friend(
    weight: torch.Tensor, momentum: torch.Tensor, mask: torch.Tensor, zeta: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    num = round(zeta * int(mask.sum()))  # A
    limit = weight.abs().flatten().sort().values[num - 1]  # B
    survivors = mask & (weight.abs() > limit)  # C
    new = torch.rand(mask.shape, generator=generator) < num / mask.numel()  # D
    after = survivors | new  # E
    return weight * after, momentum * after, after  # F


# %% nbgrader={"grade": false, "grade_id": "faults", "locked": false, "schema_version": 3, "solution": true, "task": false}
faults = None
### BEGIN SOLUTION
faults = {"B", "D", "F"}
### END SOLUTION


# %% nbgrader={"grade": false, "grade_id": "update", "locked": false, "schema_version": 3, "solution": true, "task": false}
def update(
    weight: torch.Tensor, momentum: torch.Tensor, mask: torch.Tensor, zeta: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weight, momentum and mask after one update of SET."""
    ### BEGIN SOLUTION
    num = round(zeta * int(mask.sum()))
    survivors = mask.clone()
    survivors.view(-1)[weight.abs().masked_fill(~mask, float("inf")).flatten().argsort()[:num]] = False
    places = (~survivors).flatten().nonzero().flatten()
    after = survivors.clone()
    after.view(-1)[places[torch.randperm(len(places), generator=generator)[:num]]] = True
    return weight * survivors, momentum * survivors, after
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "9a-faults", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
assert isinstance(faults, set), f"faults is {faults!r}; expected a set of letters."
assert faults <= set("ABCDEF"), f"faults is {faults!r}; expected letters from A to F."
### BEGIN HIDDEN TESTS
assert "B" in faults, "line B is wrong: absent links have weight 0, so line B counts them as the smallest weights."
assert "D" in faults, "line D is wrong: it draws a number of links that varies, and some of these links already exist."
assert "F" in faults, "line F is wrong: a removed link that comes back gets its old weight and momentum."
assert faults == {"B", "D", "F"}, (
    f"you also named {sorted(faults - {'B', 'D', 'F'})}, but this code would be right if the earlier lines were right."
)
### END HIDDEN TESTS

# %% nbgrader={"grade": true, "grade_id": "9b-update", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
row = torch.tensor([[4.0, 1.0, 3.0, 2.0, 0.0, 0.0, 0.0, 0.0]])
updated = update(row.clone(), row.clone(), row != 0, 0.25, torch.Generator().manual_seed(0))
assert updated is not None, "update() returns None; return weight, momentum and mask."
assert int(updated[2].sum()) == 4, (
    f"the mask had 4 links before the update and has {int(updated[2].sum())} links after it; expected the same number."
)
assert updated[0].tolist() == updated[1].tolist() == [[4.0, 0.0, 3.0, 2.0, 0.0, 0.0, 0.0, 0.0]], (
    "link 1 has the smallest |weight|, so the update removes it; it has weight and momentum 0, even if it comes back."
)
### BEGIN HIDDEN TESTS
generator = generator_of(student, "update")
given = torch.rand(8, 9, generator=generator) < 0.3
values, speeds = (torch.randn(8, 9, generator=generator) * given for _ in range(2))
count = round(0.3 * int(given.sum()))
stays = given & (values.abs() > values.abs()[given].sort().values[count - 1])
often = torch.zeros(8, 9)
for draw in range(600):
    w, m, after = update(values.clone(), speeds.clone(), given.clone(), 0.3, torch.Generator().manual_seed(draw))
    assert int(after.sum()) == int(given.sum()), "the update changed the number of links."
    assert bool((after | ~stays).all()), "the update removed a link whose |weight| is not among the smallest."
    assert torch.equal(w, values * stays), (
        "the weights are not right; links that stay keep their weight, and all other weights are 0."
    )
    assert torch.equal(m, speeds * stays), (
        "the momentum is not right; links that stay keep their momentum, and the momentum is 0 in all other places."
    )
    often += after & ~stays
share = often[~stays] / 600
expected = count / len(share)
assert float((share - expected).abs().max()) < 0.11, (
    f"each place without a link should get a link in about {expected:.0%} of the updates, but one place got a link in "
    f"{float(share[(share - expected).abs().argmax()]):.0%}."
)
### END HIDDEN TESTS

# %% [markdown]
# ## 10 · What does it cost? (2 points)
#
# A layer of LLaMA-60M has 512 inputs and 1,376 outputs. In float32, the layer keeps a value of 4 bytes for the weight,
# for the gradient, and for each of the `moments` of your optimizer. A dense layer keeps these values for every possible
# link. A layer that stores only its links keeps these values for each existing link, and 12 bytes more for the place of
# the link (stage 07). Set `bytes_dense`, `bytes_links` at your `density`, and `break_even`, the density at which both
# layers need the same amount of memory.

# %% nbgrader={"grade": false, "grade_id": "cost-data", "locked": true, "schema_version": 3, "solution": false, "task": false}
generator = generator_of(student, "cost")
moments = 3 * int(torch.randint(2, (1,), generator=generator))
density = 0.02 + 0.01 * int(torch.randint(9, (1,), generator=generator))
print(f"{moments} moments, density {density:.2f}")

# %% nbgrader={"grade": false, "grade_id": "cost", "locked": false, "schema_version": 3, "solution": true, "task": false}
bytes_dense = bytes_links = break_even = None
### BEGIN SOLUTION
of_values = 4 * (2 + moments)
bytes_dense = of_values * 512 * 1376
bytes_links = (of_values + 12) * round(density * 512 * 1376)
break_even = of_values / (of_values + 12)
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "10-cost", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
assert None not in (bytes_dense, bytes_links, break_even), "one of the three answers is None; set all three."
assert 0 < break_even < 1, f"break_even is {break_even}; expected a density between 0 and 1."
### BEGIN HIDDEN TESTS
generator = generator_of(student, "cost")
values = 2 + 3 * int(torch.randint(2, (1,), generator=generator))
own_density = 0.02 + 0.01 * int(torch.randint(9, (1,), generator=generator))
places = 512 * 1376
assert abs(bytes_dense - 4 * values * places) < 1, (
    f"bytes_dense is not right; a dense layer keeps {values} values of 4 bytes for each place."
)
each = 4 * values + 12
assert abs(bytes_links - each * own_density * places) <= each, (
    f"bytes_links is not right; a link takes {values} values and its place, which need {each} bytes together."
)
assert abs(break_even - 4 * values / each) < 0.005, (
    f"break_even is not right; both layers take the same memory if density · {each} is {4 * values}."
)
### END HIDDEN TESTS

# %% [markdown] nbgrader={"grade": false, "grade_id": "11-page", "locked": true, "points": 5, "schema_version": 3, "solution": false, "task": true}
# ## 11 · One page (5 points, graded by a person)
#
# Below this cell, write 300 to 500 words about your experiment of question 8, for a reader who knows PyTorch but not
# this course. Each line of the table gives one point.
#
# | the page | one point if |
# |---|---|
# | asks | it says in one sentence what you wanted to know, and why either answer was possible |
# | shows | it gives the result with its interval and the number of runs, and it claims no more than the interval allows |
# | counts | it says how many links and training steps each method used, beside its accuracy |
# | doubts | it names one thing in your set-up that could have favoured a method |
# | decides | it says which result would change your mind, and which experiment would give that result |
