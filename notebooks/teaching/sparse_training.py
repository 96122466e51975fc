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
# Eight questions, 20 points, about two hours. Stages 01 to 06 have all that you need; torch and `chts_core` may be used,
# except where a question says that you write something yourself.
#
# - **Your networks are your own.** They are made from your id, so the answers of another student are not yours.
# - Write your code where it says so, and run the notebook from top to bottom.
# - After each question comes a check. Where it says nothing, your answer has passed what is checked here; more is
#   checked when you have handed in, with other numbers too.
# - Hand in this file, with your id in its name.

# %%
import torch

import chts_core as chts
from chts_core.lab import data
from chts_core.lab.teach.assignment import generator_of
from chts_core.lab.train import images

# %%
student = ""  # your id, as your teacher has it, between the quotes

# %% nbgrader={"grade": false, "grade_id": "who", "locked": true, "schema_version": 3, "solution": false, "task": false}
generator = generator_of(student, "count")
mask = torch.rand(6, 8, generator=generator) < 0.4
print(mask.int())

# %% [markdown]
# ## 1 · Count (2 points)
#
# `mask` is a layer with 6 outputs and 8 inputs. How many links has it, what is its density, and how many links has each
# output and each input? Set `links` (a whole number), `density` (a fraction), `output_degrees` and `input_degrees` (lists
# of whole numbers).

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
    f"expected a degree for each of 6 outputs, not {len(output_degrees)}: rows are outputs."
)
assert len(input_degrees) == 8, f"expected a degree for each of 8 inputs, not {len(input_degrees)}."
### BEGIN HIDDEN TESTS
own = torch.rand(6, 8, generator=generator_of(student, "count")) < 0.4
assert links == int(own.sum()), "the number of links is not that of your mask."
assert abs(density - links / 48) < 0.005, "the density is the share of all 48 possible links."
outputs, inputs = chts.diagnostics.degrees(own)
assert list(output_degrees) == outputs.tolist(), "a degree of an output is the number of links in its row."
assert list(input_degrees) == inputs.tolist(), "a degree of an input is the number of links in its column."
### END HIDDEN TESTS

# %% [markdown]
# ## 2 · How far is an input? (2 points)
#
# In a receptive field, output $i$ looks at position $c_i = (i + \tfrac12)\,\frac{\text{in}}{\text{out}} - \tfrac12$ on
# the input side, and the inputs lie on a ring: the last is next to the first. Write `distance`, how far input $j$ is
# from there.


# %% nbgrader={"grade": false, "grade_id": "distance", "locked": false, "schema_version": 3, "solution": true, "task": false}
def distance(i: int, j: int, out_features: int, in_features: int) -> float:
    """How far input j is from where output i looks, on the ring of inputs."""
    ### BEGIN SOLUTION
    centre = (i + 0.5) * in_features / out_features - 0.5
    straight = abs(j - centre)
    return min(straight, in_features - straight)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "2a-distance", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
assert distance(0, 0, 4, 8) == 0.5, "output 0 of 4 looks at position 0.5 of 8 inputs."
assert distance(0, 7, 4, 8) == 1.5, "input 7 is next to input 0: 1.5 the short way around."

# %% nbgrader={"grade": true, "grade_id": "2b-distance", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
# With other layers, when you have handed in.
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
# ## 3 · The score of a missing link (3 points)
#
# Write CH2-L3n yourself, for one missing link between output $u$ and input $v$. Each node $z$ on a path of three links
# $u - z_1 - z_2 - v$ counts once, with $(1 + i_z) / (1 + e_z)$: its links to other nodes on such paths, and its links
# elsewhere, those to $u$ and $v$ not counted. The score is the sum over these nodes.


# %% nbgrader={"grade": false, "grade_id": "score", "locked": false, "schema_version": 3, "solution": true, "task": false}
def score(mask: torch.Tensor, u: int, v: int) -> float:
    """CH2-L3n of the missing link between output u and input v."""
    ### BEGIN SOLUTION
    on_path_inputs = {z1 for z1 in mask[u].nonzero().flatten().tolist() if (mask[:, z1] & mask[:, v]).any()}
    on_path_outputs = {z2 for z2 in mask[:, v].nonzero().flatten().tolist() if (mask[z2] & mask[u]).any()}
    total = 0.0
    for z in on_path_inputs:
        neighbours = set(mask[:, z].nonzero().flatten().tolist()) - {u}
        inside = len(neighbours & on_path_outputs)
        total += (1 + inside) / (1 + len(neighbours) - inside)
    for z in on_path_outputs:
        neighbours = set(mask[z].nonzero().flatten().tolist()) - {v}
        inside = len(neighbours & on_path_inputs)
        total += (1 + inside) / (1 + len(neighbours) - inside)
    return total
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "3a-score", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
square = torch.tensor([[1, 0], [1, 1]], dtype=torch.bool)
assert abs(score(square, 0, 1) - 4) < 1e-4, (
    "output 0 and input 1: the path leads over input 0 and output 1, which are linked to each other and nowhere else: "
    "(1 + 1) / (1 + 0) each."
)

# %% nbgrader={"grade": true, "grade_id": "3b-score", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
# With networks of your own, when you have handed in.
### BEGIN HIDDEN TESTS
from unittest.mock import patch

for number in range(3):
    drawn = torch.rand(6, 7, generator=generator_of(student, f"score {number}")) < 0.4
    expected = chts.link_prediction.ch2_l3n(drawn)
    with patch.object(chts.link_prediction, "ch2_l3n", side_effect=AssertionError("write the score yourself.")):
        for u, v in (~drawn).nonzero().tolist():
            assert abs(score(drawn.clone(), u, v) - float(expected[u, v])) < 1e-3, (
                f"the score of output {u} and input {v} in\n{drawn.int().tolist()}\nshould be {float(expected[u, v]):.3f}."
            )
### END HIDDEN TESTS

# %% [markdown]
# ## 4 · Soft sampling (3 points)
#
# At temperature parameter $T$, the first link is drawn with a probability in proportion to its score to the power $T$.
# Write `probabilities`. Scores are never negative; a score of 0 is never drawn as long as another is not 0. Scores can be
# tiny, and a tiny number to the power of 9 is 0 in a computer.


# %% nbgrader={"grade": false, "grade_id": "probabilities", "locked": false, "schema_version": 3, "solution": true, "task": false}
def probabilities(scores: torch.Tensor, temperature: float) -> torch.Tensor:
    """Probability of each link to be drawn first."""
    ### BEGIN SOLUTION
    return torch.softmax(temperature * scores.log(), dim=0)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "4a-probabilities", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
pair = torch.tensor([1.0, 3.0])
assert torch.allclose(probabilities(pair, 1.0), torch.tensor([0.25, 0.75])), "at T = 1: 1 in 4 and 3 in 4."
assert torch.allclose(probabilities(pair, 2.0), torch.tensor([0.1, 0.9])), "at T = 2: 1 and 9 of 10."

# %% nbgrader={"grade": true, "grade_id": "4b-probabilities", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
# With other scores, when you have handed in.
### BEGIN HIDDEN TESTS
with_zero = probabilities(torch.tensor([0.0, 1.0, 1.0]), 3.0)
assert torch.allclose(with_zero, torch.tensor([0.0, 0.5, 0.5])), "a score of 0 is not drawn while others are not 0."
tiny = probabilities(torch.tensor([1e-30, 2e-30]), 9.0)
assert torch.allclose(tiny, torch.tensor([1 / 513, 512 / 513]), atol=1e-4), (
    f"scores of 1e-30 and 2e-30 at T = 9 gave {tiny.tolist()}: the powers are 0 in a computer. Work with logarithms."
)
drawn = torch.rand(20, generator=generator_of(student, "soft")) + 0.1
assert torch.allclose(probabilities(drawn, 1.7), drawn**1.7 / (drawn**1.7).sum(), atol=1e-5)
### END HIDDEN TESTS

# %% [markdown]
# ## 5 · Which links go? (2 points)
#
# `weight` is a layer of yours with 10 links. The three least important are removed. Which are they by **magnitude**, and
# which by **relative importance**? Set two Boolean tensors of the shape of `weight`, true at the links that go.

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
assert gone_by_magnitude.shape == (4, 5), "expected a tensor of the shape of weight."
assert gone_by_magnitude.dtype == torch.bool, "expected true and false."
### BEGIN HIDDEN TESTS
generator = generator_of(student, "removal")
own = chts.topology.erdos_renyi(4, 5, 0.5, generator=generator)
own = torch.randn(4, 5, generator=generator) * own
limit = own[own != 0].abs().sort().values[2]
assert torch.equal(gone_by_magnitude, (own.abs() <= limit) & (own != 0)), "expected the three links nearest to 0."
### END HIDDEN TESTS

# %% nbgrader={"grade": true, "grade_id": "5b-importance", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
assert gone_by_importance.shape == (4, 5), "expected a tensor of the shape of weight."
assert gone_by_importance.dtype == torch.bool, "expected true and false."
### BEGIN HIDDEN TESTS
generator = generator_of(student, "removal")
own = chts.topology.erdos_renyi(4, 5, 0.5, generator=generator)
own = torch.randn(4, 5, generator=generator) * own
importance = own.abs() / own.abs().sum(0).clamp(min=1e-9) + own.abs() / own.abs().sum(1, keepdim=True).clamp(min=1e-9)
limit = importance[own != 0].sort().values[2]
assert torch.equal(gone_by_importance, (importance <= limit) & (own != 0)), (
    "expected the three links whose shares, of what their input sends and of what their output hears, sum to the least."
)
### END HIDDEN TESTS

# %% [markdown]
# ## 6 · Percolation (3 points)
#
# A hidden neuron without incoming or without outgoing links is inactive, and its links are of no use. Write `percolated`
# yourself: of two layers that follow each other, the masks without the links of inactive neurons between them. Do not
# change the masks given.


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
assert swept[0].int().tolist() == [[1, 1], [0, 0], [0, 0]], "hidden neuron 1 is not read, so what it hears is cut."
assert swept[1].int().tolist() == [[1, 0, 0], [0, 0, 0]], "hidden neuron 2 hears nothing, so what it sends is cut."

# %% nbgrader={"grade": true, "grade_id": "6b-percolated", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
# With networks of your own, when you have handed in.
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
    with patch.object(chts.percolation, "percolate", side_effect=AssertionError("write it yourself.")):
        swept = percolated(*copies)
    assert all(map(torch.equal, copies, given.values())), "the masks given were changed; work on copies."
    assert all(map(torch.equal, swept, expected.values())), (
        f"not what is left of a network with {hidden} hidden neurons."
    )
### END HIDDEN TESTS

# %% [markdown]
# ## 7 · Density decay (2 points)
#
# CHTss trains a layer of 200 inputs and 100 outputs whose sparsity rises along the sigmoid, from 0.5 at step 0 to
# `final` at step `end`, with $k = 6$. How many links has the layer half-way, and how many at three quarters of the way?
# Set `half_way` and `three_quarters` (whole numbers, rounded).

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
    "fewer links as time goes by, and fewer than half of the possible 20,000."
)
### BEGIN HIDDEN TESTS
import math

generator = generator_of(student, "decay")
own_final = 0.8 + 0.01 * int(torch.randint(20, (1,), generator=generator))
assert abs(half_way - 20_000 * (1 - (0.5 + own_final) / 2)) <= 1, "half-way the sparsity is the mean of both ends."
sigmoid = [1 / (1 + math.exp(-x)) for x in (-6, 3, 6)]
share = (sigmoid[1] - sigmoid[0]) / (sigmoid[2] - sigmoid[0])
assert abs(three_quarters - 20_000 * (0.5 - (own_final - 0.5) * share)) <= 1, "at u = 3/4 the sigmoid is at σ(k/2)."
### END HIDDEN TESTS

# %% [markdown]
# ## 8 · An experiment (3 points)
#
# Does soft regrowth by link prediction beat random regrowth at 98 % sparsity? Train `"chts"` and `"set"` on the digits
# with each of your three seeds and the recipe below. Set
#
# - `accuracies`, the test accuracies by method, in the order of the seeds: `{"chts": [..., ..., ...], "set": [...]}`;
# - `mean_difference`, CHTs minus SET, seed by seed, then the mean;
# - `standard_error` of that mean (with $n - 1$);
# - `verdict`: `"chts"` or `"set"` if the difference is more than two standard errors, else `"cannot be told"`.
#
# Any verdict can be right: it is about your numbers.

# %% nbgrader={"grade": false, "grade_id": "recipe", "locked": true, "schema_version": 3, "solution": false, "task": false}
recipe = images.Recipe(hidden=128, epochs=12, learning_rate=0.05)
digits = data.load_images("digits")
seeds = torch.randint(10_000, (3,), generator=generator_of(student, "experiment")).tolist()
print("your seeds:", seeds)

# %% nbgrader={"grade": false, "grade_id": "experiment", "locked": false, "schema_version": 3, "solution": true, "task": false}
accuracies = mean_difference = standard_error = verdict = None
# One run: images.train(digits, "chts", 0.98, recipe, seed=seeds[0]).test_accuracy
### BEGIN SOLUTION
accuracies = {
    method: [images.train(digits, method, 0.98, recipe, seed=seed).test_accuracy for seed in seeds]
    for method in ("chts", "set")
}
differences = torch.tensor(accuracies["chts"]) - torch.tensor(accuracies["set"])
mean_difference = float(differences.mean())
standard_error = float(differences.std() / len(seeds) ** 0.5)
verdict = "cannot be told"
if abs(mean_difference) > 2 * standard_error:
    verdict = "chts" if mean_difference > 0 else "set"
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "8a-runs", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
assert sorted(accuracies) == ["chts", "set"], "expected the two methods."
assert all(len(values) == 3 for values in accuracies.values()), "expected a run for each of three seeds."
### BEGIN HIDDEN TESTS
own_seeds = torch.randint(10_000, (3,), generator=generator_of(student, "experiment")).tolist()
for method, values in accuracies.items():
    again = images.train(digits, method, 0.98, recipe, seed=own_seeds[1]).test_accuracy
    assert abs(again - values[1]) < 0.03, f"{method} with your second seed, {own_seeds[1]}, gives {again:.3f} here."
### END HIDDEN TESTS

# %% nbgrader={"grade": true, "grade_id": "8b-statistics", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
assert verdict in ("chts", "set", "cannot be told"), f"the verdict is {verdict!r}."
### BEGIN HIDDEN TESTS
paired = torch.tensor(accuracies["chts"], dtype=torch.float64) - torch.tensor(accuracies["set"], dtype=torch.float64)
assert abs(mean_difference - float(paired.mean())) < 1e-4, "the mean difference is not that of your accuracies."
expected = float(paired.std() / 3**0.5)
assert abs(standard_error - expected) < 1e-4, f"the standard error of your three differences is {expected:.4f}."
told = abs(mean_difference) > 2 * standard_error
expected = ("chts" if mean_difference > 0 else "set") if told else "cannot be told"
assert verdict == expected, f"with {mean_difference:.4f} ± {standard_error:.4f} the verdict is: {expected}."
### END HIDDEN TESTS
