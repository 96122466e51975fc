"""Record what the two published codes compute, as the numbers of chts_core/lab/verify/published.

    python tests/published/record.py MLP LLAMA

MLP and LLAMA are checkouts of the two repositories that README.md beside this file names. Their code is only called
from here. What it wants and a machine lacks (image data, a logger, a server of metrics) is replaced from outside.
"""

import argparse
import contextlib
import importlib
import io
import json
import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

NUMBERS = Path(__file__).parents[2] / "chts_core" / "lab" / "verify" / "published"
# Both repositories call their modules so.
NAMES = ("dst_scheduler", "dst_util", "sparse_topology_initialization", "model", "sparse", "run", "load_data", "utils")


# --- how things are written down ---


def rows(mask: Tensor) -> list[str]:
    """A mask as strings of 0 and 1, one for each output."""
    return ["".join("1" if link else "0" for link in row) for row in (mask != 0).tolist()]


def numbers(values: Any) -> Any:
    """Numbers with the fewest digits that tell them from others of their dtype."""
    if isinstance(values, Tensor):
        values = values.detach().numpy()
    if isinstance(values, np.ndarray):
        return [numbers(value) for value in values]
    return float(str(values)) if isinstance(values, np.floating) else values


def save(name: str, content: dict[str, Any]) -> None:
    lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in content.items())
    (NUMBERS / f"{name}.json").write_text(f"{{\n{lines}\n}}\n")


# --- inputs ---


def random_mask(shape: tuple[int, int], density: float, seed: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density


def distinct(shape: tuple[int, int], seed: int) -> Tensor:
    """Numbers of either sign whose sizes are all different, 1/n to 1 rounded to 4 digits."""
    generator = torch.Generator().manual_seed(seed)
    size = shape[0] * shape[1]
    values = (torch.randperm(size, generator=generator) + 1).double() / size
    signs = torch.randint(2, (size,), generator=generator) * 2 - 1
    return ((values * signs * 1e4).round() / 1e4).float().view(shape)


def seed_all() -> None:
    """The published codes draw from the global generators of three libraries."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)


# --- the published modules ---


class Anything(ModuleType):
    """A module that has whatever is asked for, and none of it does anything."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)
        self.__path__: list[str] = []
        self.__all__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return mock.MagicMock(name=f"{self.__name__}.{name}")


@contextlib.contextmanager
def published(*folders: Path, absent: tuple[str, ...] = ()) -> Iterator[Callable[[str], Any]]:
    """Import from a published folder; modules named `absent` are stand-ins."""
    for name in (*NAMES, *absent):
        sys.modules.pop(name, None)
    sys.modules.update({name: Anything(name) for name in absent})
    with mock.patch.object(sys, "path", [*map(str, folders), *sys.path]):
        yield importlib.import_module
    for name in absent:
        del sys.modules[name]


def of_mlp(folder: Path) -> contextlib.AbstractContextManager[Callable[[str], Any]]:
    absent = ("torchvision", "wandb")
    return published(folder / "mlp_and_cnn", folder, absent=absent)


def of_transformer(folder: Path) -> contextlib.AbstractContextManager[Callable[[str], Any]]:
    return published(folder / "Transformer", folder, absent=("torchvision",))


def of_llama(folder: Path, extension: Path) -> contextlib.AbstractContextManager[Callable[[str], Any]]:
    absent = ("utils", "wandb", "loguru", "peft_pretraining.modeling_llama")
    return published(folder / "llm", extension, absent=absent)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


@contextlib.contextmanager
def seen(owner: Any, name: str) -> Iterator[list[tuple[Any, ...]]]:
    """The arguments that a function is called with."""
    calls: list[tuple[Any, ...]] = []
    original = getattr(owner, name)

    def spy(*args: Any, **kwargs: Any) -> Any:
        calls.append(tuple(a.clone() if isinstance(a, Tensor) else a for a in args))
        return original(*args, **kwargs)

    with mock.patch.object(owner, name, spy):
        yield calls


MLP_COMMANDS = {
    "set": "--regrow_method random --init_mode kaiming --zeta 0.3 --remove_method weight_magnitude",
    "mest": "--regrow_method random --init_mode kaiming --zeta 0.3 --remove_method MEST --EM_S",
    "cht": "--regrow_method CH3_L3p --init_mode swi --self_correlated_sparse --chain_removal --zeta 0.3 "
    "--remove_method weight_magnitude --early_stop --adaptive_zeta",
    "chts": "--regrow_method CH3_L3p_soft --init_mode swi --self_correlated_sparse --chain_removal --zeta 0.3 "
    "--remove_method weight_magnitude --EM_S",
}
MLP_COMMON = (
    "--network_structure mlp --weight_decay 5e-04 --linearlr --learning_rate 0.025 --dim 2 --update_interval 1 "
    "--no_log --seed 0 --dst_scheduler"
)


def mlp_arguments(load: Callable[[str], Any], command: str) -> Any:
    with mock.patch.object(sys, "argv", ["run.py", *MLP_COMMON.split(), *command.split()]):
        return load("run").args()


def one_layer(load: Callable[[str], Any], weight: Tensor, command: str, alpha: float = 0.3) -> Any:
    """The published scheduler of a single sparse layer that is linked where its weight is not zero."""
    args = mlp_arguments(load, command)
    load("dst_util").LAYER_INDEX = 0
    model = nn.Sequential(nn.Linear(weight.shape[1], weight.shape[0], bias=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with quiet():
        scheduler = load("dst_scheduler").DSTScheduler(
            model, optimizer, dense_allocation=0.5, alpha=alpha, delta=2, T_end=100, args=args
        )
    reset(scheduler, [weight])
    return scheduler


def reset(scheduler: Any, weights: list[Tensor]) -> None:
    for layer, weight in enumerate(weights):
        scheduler.W[layer].data = weight.clone()
        scheduler.W[layer].grad = torch.zeros_like(weight)
        scheduler.backward_masks[layer] = weight != 0


# --- scores of missing links ---

MASKS = [
    ((3, 4), 0.5, 0),
    ((8, 12), 0.3, 1),
    ((12, 8), 0.3, 2),
    ((20, 20), 0.15, 3),
    ((15, 31), 0.5, 4),
    ((9, 9), 0.9, 5),
]


def record_scores(mlp: Path, llama: Path) -> None:
    masks = [random_mask(*mask) for mask in MASKS]
    content: dict[str, Any] = {"masks": [rows(mask) for mask in masks]}
    with of_llama(llama, mlp) as load:
        scheduler = load("dst_scheduler").DSTScheduler
        for method in ("CH2_L3n", "CH3_L3n", "CH2_L3p", "CH3_L3p"):
            with quiet():
                content[f"llama {method}"] = [
                    numbers(
                        scheduler._scores_for_regrowth_ch(
                            None, method=method.lower(), ch_method=method[:3], current_mask=mask, w=mask.float()
                        )
                        * ~mask
                    )
                    for mask in masks
                ]
    with of_mlp(mlp) as load:
        for method in ("CH2_L3n", "CH3_L3n", "CH3_L3p"):
            found = []
            for mask in masks:
                # One link too many, the smallest, goes first; the scores are those of what remains.
                weight = mask.float()
                extra = tuple((~mask).nonzero()[0].tolist())
                weight[extra] = 1e-3
                command = f"--chain_removal --remove_method weight_magnitude --regrow_method {method}_soft"
                scheduler = one_layer(load, weight, command, alpha=1.5 / int((weight != 0).sum()))
                with quiet(), seen(torch, "sort") as sorted_:
                    scheduler._dst_step()
                found.append(numbers(sorted_[0][0].view(mask.shape)))
            content[f"mlp {method}"] = found
    save("scores", content)


# --- scores of existing links, and the probabilities of soft removal ---

WEIGHTS = [((6, 9), 0.5, 10), ((12, 7), 0.3, 11), ((10, 10), 0.2, 12)]
REMOVAL_STEPS = (2, 50, 98)  # of 100


def record_removal(mlp: Path, llama: Path) -> None:
    weights = [distinct(shape, seed) * random_mask(shape, density, seed) for shape, density, seed in WEIGHTS]
    # As small as weights that are regularised: there the ε of RI is felt.
    weights += [weight / 1000 for weight in weights]
    content: dict[str, Any] = {"weights": [numbers(weight) for weight in weights], "steps": REMOVAL_STEPS}
    with of_llama(llama, mlp) as load:
        module = load("dst_scheduler")
        stand_in = SimpleNamespace(args=SimpleNamespace(pruning_method="ri"))
        content["llama ri"] = [
            numbers(module.DSTScheduler._score_for_pruning(stand_in, 0, weight)) for weight in weights
        ]
        content["llama probabilities"] = []
        for temperature in (1.0, 5.0, 9.0):
            with seen(torch, "multinomial") as drawn:
                module.DSTScheduler._soft_sample_keep_mask(weights[0].abs(), 5, temperature)
            content["llama probabilities"].append([temperature, numbers(drawn[0][0].view_as(weights[0]))])
    with of_mlp(mlp) as load:
        for key, method in (("mlp ri", "ri"), ("mlp wm", "weight_magnitude")):
            content[key] = []
            for weight in weights:
                scheduler = one_layer(
                    load, weight, f"--chain_removal --remove_method {method} --regrow_method CH2_L3n_soft"
                )
                with quiet(), seen(torch, "topk") as ranked:
                    scheduler._dst_step()
                content[key].append(numbers(ranked[0][0].view_as(weight)))
        for key, method in (("mlp wm_soft", "weight_magnitude_soft"), ("mlp ri_soft", "ri_soft")):
            content[key] = []
            for step in REMOVAL_STEPS:
                scheduler = one_layer(
                    load, weights[0], f"--chain_removal --remove_method {method} --regrow_method CH2_L3n_soft"
                )
                scheduler.step = step
                with quiet(), seen(torch.Tensor, "__pow__") as powers, seen(torch, "multinomial") as drawn:
                    scheduler._dst_step()
                content[key].append([powers[0][1], numbers(drawn[0][0].view_as(weights[0]))])
        gradient = distinct((6, 9), 13) * 100
        scheduler = one_layer(load, weights[0], MLP_COMMANDS["set"].replace("weight_magnitude", "MEST"))
        scheduler.backward_hook_objects[0].dense_grad = gradient
        with quiet(), seen(torch, "topk") as ranked:
            scheduler._dst_step()
        content["gradient"], content["mlp mest"] = numbers(gradient), numbers(ranked[0][0].view_as(gradient))
    save("removal", content)


# --- percolation ---

CHAIN = [(9, 7), (8, 9), (6, 8)]


def record_percolation(mlp: Path, llama: Path) -> None:
    chains = []
    with of_mlp(mlp) as load:
        args = mlp_arguments(load, "--chain_removal --remove_method weight_magnitude --regrow_method random")
        module, util = load("dst_scheduler"), load("dst_util")
        for seed, density in ((0, 0.1), (1, 0.15), (2, 0.2), (3, 0.25)):
            util.LAYER_INDEX = 0
            model = nn.Sequential(*(nn.Linear(columns, outputs, bias=False) for outputs, columns in CHAIN))
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            with quiet():
                scheduler = module.DSTScheduler(
                    model, optimizer, dense_allocation=0.5, alpha=0.0, delta=2, T_end=100, args=args
                )
            masks = [random_mask(shape, density, 10 * seed + layer) for layer, shape in enumerate(CHAIN)]
            reset(scheduler, [mask.float() for mask in masks])
            found: dict[int, Tensor] = {}
            with quiet(), rows_of_update(scheduler, found):
                scheduler._dst_step()
            survivors = [found.get(layer, mask) for layer, mask in enumerate(masks)]
            chains.append([[rows(mask) for mask in masks], [rows(mask) for mask in survivors]])

    blocks = []
    with of_llama(llama, mlp) as load:
        module = load("dst_scheduler")
        shapes = {"gate": (9, 6), "up": (9, 6), "down": (6, 9), "query": (8, 6), "key": (8, 6), "value": (8, 6)}
        shapes["output"] = (6, 8)
        names = list(shapes)
        for seed, density in ((0, 0.12), (1, 0.2), (2, 0.3)):
            given = {
                name: random_mask(shape, density, 100 * seed + i) for i, (name, shape) in enumerate(shapes.items())
            }
            stand_in = SimpleNamespace(
                backward_masks=list(given.values()),
                qk_chain_list=[(names.index("key"), names.index("query")), (0, 1)],
                chain_list=[(names.index("value"), names.index("output")), (0, 2), (1, 2)],
                _paired_head_slices=lambda *_: None,
            )
            module.DSTScheduler.chain_removal(stand_in)
            after = dict(zip(names, stand_in.backward_masks, strict=True))
            blocks.append([{name: rows(masks[name]) for name in names} for masks in (given, after)])
    save("percolation", {"mlp": chains, "llama": blocks})


@contextlib.contextmanager
def rows_of_update(scheduler: Any, survivors: dict[int, Tensor], counts: list[Any] | None = None) -> Iterator[None]:
    """What an update leaves of each layer before it regrows, seen each time that it has done a layer."""
    before = [mask.clone() for mask in scheduler.backward_masks]
    original = scheduler.reset_momentum

    def spy() -> None:
        frame = sys._getframe(1)
        if frame.f_code.co_name == "_dst_step":
            here = frame.f_locals
            layer = here["l"]
            whole = here["mask1_total"][layer] if "mask1_total" in here else here["mask1"]
            kept = (whole != 0).view_as(before[layer])
            survivors[layer] = kept
            if counts is not None:
                after = scheduler.backward_masks[layer]
                planned = (
                    here["n_ones"][layer] - here["n_keep"][layer]
                    if "mask1_total" in here
                    else (here["n_ones"] - here["n_keep"])
                )
                counts.append(
                    [
                        scheduler.step,
                        layer,
                        int(before[layer].sum()),
                        planned,
                        int((before[layer] & ~kept).sum()),
                        int((after & ~kept).sum()),
                        int(after.sum()),
                    ]
                )
        original()

    with mock.patch.object(scheduler, "reset_momentum", spy):
        yield


# --- correlated sparse topological initialisation ---


def record_csti(mlp: Path) -> None:
    generator = torch.Generator().manual_seed(20)
    data = torch.randn(40, 12, generator=generator) @ torch.randn(12, 12, generator=generator)
    data = (data * 100).round() / 100
    data[:, 5] = 0.25  # a pixel that is always the same
    content: dict[str, Any] = {"data": numbers(data), "networks": []}
    with of_mlp(mlp) as load:
        module, util = load("dst_scheduler"), load("dst_util")
        for wide, sparsity in ((1, 0.9), (1, 0.7), (2, 0.9), (2, 0.95)):
            command = f"--self_correlated_sparse --batch_size 8 --dim {wide} --sparsity {sparsity} --dataset recorded"
            args = mlp_arguments(load, command)
            width = 12 * wide
            util.LAYER_INDEX = 0
            model = load("model").dense_mlp(12, [width, width, width], 10, args)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            batches = [(batch, None) for batch in data.split(8)]

            def samples(*_: Any, batches: Any = batches, **__: Any) -> Any:
                return batches, np.zeros((12, 40))

            with (
                quiet(),
                scratch(),
                mock.patch.object(module, "load_calib_dataset", samples),
                seen(module, "update_topology_scheduler") as asked,
                np.errstate(all="ignore"),
            ):
                scheduler = module.DSTScheduler(
                    model, optimizer, dense_allocation=1 - args.sparsity, delta=2, T_end=100, args=args
                )
            for (_, _, wanted), mask in zip(asked, scheduler.backward_masks, strict=True):
                content["networks"].append([wide, sparsity, wanted, rows(mask)])
    save("csti", content)


@contextlib.contextmanager
def scratch() -> Iterator[None]:
    with tempfile.TemporaryDirectory() as folder:
        here = Path.cwd()
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(here)


# --- schedules ---


def record_schedules(mlp: Path, llama: Path) -> None:
    content: dict[str, Any] = {}
    with of_mlp(mlp) as load:
        cosine = load("dst_scheduler").DSTScheduler.cosine_annealing
        content["mlp cosine"] = [
            [step, end, float(cosine(SimpleNamespace(alpha=0.3, step=step, T_end=end)))]
            for end in (75.0, 15000)
            for step in range(0, int(end), max(1, int(end) // 12))
        ]
    with of_llama(llama, mlp) as load:
        scheduler = load("dst_scheduler").DSTScheduler
        content["llama cosine"] = [
            [step, 7500, scheduler.cosine_annealing(SimpleNamespace(alpha=0.1, step=step, T_end=7500))]
            for step in range(0, 7501, 500)
        ]
        for name in ("granet", "s_shape"):
            content[f"llama {name}"] = []
            for final, k, end in ((0.9, 6.0, 8000), (0.95, 6.0, 7500), (0.7, 2.0, 3000), (0.99, 10.0, 6000)):
                if name == "granet" and k != 6.0:
                    continue
                for step in (*range(100, end, end // 10 // 100 * 100), end):
                    args = SimpleNamespace(pruning_scheduler=name, granet_init_sparsity=0.5, sparsity=final, k=k)
                    stand_in = SimpleNamespace(
                        step=step, ini_iter=0, delta_T=100, total_prune_iter=end // 100, args=args
                    )
                    rate = float(scheduler._current_prune_rate(stand_in))
                    content[f"llama {name}"].append([step, end, final, k, rate])
        # The temperature that a removal asks for at a step.
        content["llama temperature"] = []
        for step in (100, 2500, 5000, 7500):
            _, pruner = llama_scheduler(load, "--start_T 1.0 --end_T 9.0", steps=10_000, every=100)
            pruner.step = step
            with seen(pruner, "_soft_sample_keep_mask") as asked:
                pruner.link_removal()
            content["llama temperature"].append([step, 7500, asked[0][2]])
    save("schedules", content)


# --- runs of the MLP script ---

FEATURES, EPOCHS, BATCHES = 20, 20, 2


def mlp_run(load: Callable[[str], Any], command: str) -> dict[str, Any]:
    """The published script from its command line on made-up images, with what every update did."""
    run, module = load("run"), load("dst_scheduler")
    args = mlp_arguments(load, f"{command} --epochs {EPOCHS} --sparsity 0.9 --batch_size 8 --dataset recorded")
    generator = torch.Generator().manual_seed(30)
    images = torch.randn(8 * BATCHES, FEATURES, generator=generator)
    labels = torch.randint(10, (8 * BATCHES,), generator=generator)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=8)
    load("dst_util").LAYER_INDEX = 0
    updates: list[Any] = []
    stepped: list[int] = []
    initial: list[int] = []
    signals: list[list[int]] = []
    original = module.DSTScheduler._dst_step
    call = module.DSTScheduler.__call__

    def update(self: Any) -> None:
        if not initial:
            initial.extend(int(mask.sum()) for mask in self.backward_masks)
        with rows_of_update(self, {}, updates):
            original(self)
        if args.early_stop:
            signals.append([self.step, *map(int, self.early_stop_signal)])

    def called(self: Any) -> Any:
        does = call(self)
        if does:
            stepped.append(self.step)
        return does

    def samples(*_: Any, **__: Any) -> Any:
        return loader, np.zeros((FEATURES, len(images)))

    outcome = "finished"
    patches: list[contextlib.AbstractContextManager[Any]] = [
        mock.patch.object(run, "load_data_mlp", return_value=(loader, loader, FEATURES, 10, [2 * FEATURES] * 3)),
        mock.patch.object(module.DSTScheduler, "_dst_step", update),
        mock.patch.object(module.DSTScheduler, "__call__", called),
        mock.patch.object(module, "load_calib_dataset", samples),
    ]
    with contextlib.ExitStack() as stack:
        for context in patches:
            stack.enter_context(context)
        stack.enter_context(quiet())
        stack.enter_context(scratch())
        try:
            run.train_model(0, "cpu", args)
        except Exception as error:
            outcome = f"{type(error).__name__}: {error}".splitlines()[0]
    optimizer_skips = sorted(set(range(1, EPOCHS * BATCHES + 1)) - set(stepped)) if outcome == "finished" else []
    found = {"outcome": outcome, "initial": initial, "updates": updates, "optimizer skips": optimizer_skips}
    return found | ({"stop signals": signals} if signals else {})


def record_mlp_runs(mlp: Path) -> None:
    shapes = [[2 * FEATURES, FEATURES], *[[2 * FEATURES, 2 * FEATURES]] * 2]
    content: dict[str, Any] = {"shapes": shapes, "epochs": EPOCHS, "steps per epoch": BATCHES, "sparsity": 0.9}
    with of_mlp(mlp) as load:
        for name, command in MLP_COMMANDS.items():
            content[name] = mlp_run(load, command)
        content["cht, soft regrowth"] = mlp_run(load, MLP_COMMANDS["cht"].replace("L3p", "L3p_soft"))
        content["cht, random regrowth, stops at 0"] = mlp_run(
            load, MLP_COMMANDS["cht"].replace("CH3_L3p", "random") + " --early_stop_thre 0.02"
        )
        content["soft removal without percolation"] = mlp_run(
            load, MLP_COMMANDS["set"].replace("weight_magnitude", "weight_magnitude_soft")
        )
        content["soft removal with early stop"] = mlp_run(
            load,
            MLP_COMMANDS["cht"].replace("L3p", "L3p_soft").replace("weight_magnitude", "weight_magnitude_soft"),
        )
    save("mlp_runs", content)


def record_history(mlp: Path) -> None:
    """Weights before and after updates of one layer, with and without the flag that restores weights."""
    content: dict[str, Any] = {}
    start = distinct((6, 7), 40) * random_mask((6, 7), 0.5, 41)
    gradients = [distinct((6, 7), 50 + step) for step in range(8)]
    with of_mlp(mlp) as load:
        for key, flag in (("zeros", ""), ("history", " --history_weights")):
            command = "--chain_removal --remove_method weight_magnitude --regrow_method random" + flag
            torch.manual_seed(5)
            scheduler = one_layer(load, start, command, alpha=0.5)
            optimizer = torch.optim.SGD([scheduler.W[0]], lr=0.1, momentum=0.9)
            scheduler.optimizer = optimizer
            if flag:
                scheduler.history_weights[0] = scheduler.W[0].data.clone()
            updates = []
            for gradient in gradients:
                weight = scheduler.W[0]
                weight.grad = gradient * scheduler.backward_masks[0]
                optimizer.step()
                before = weight.data.clone()
                survivors: dict[int, Tensor] = {}
                momentum = optimizer.state[weight]["momentum_buffer"]
                momentum_before = momentum.clone()
                mask_before = scheduler.backward_masks[0].clone()
                with quiet(), rows_of_update(scheduler, survivors):
                    scheduler._dst_step()
                updates.append(
                    {
                        "before": rows(mask_before),
                        "survivors": rows(survivors[0]),
                        "after": rows(scheduler.backward_masks[0]),
                        "weights before": numbers(before),
                        "weights after": numbers(scheduler.W[0].data),
                        "momentum before": numbers(momentum_before),
                        "momentum after": numbers(optimizer.state[scheduler.W[0]]["momentum_buffer"]),
                    }
                )
            content[key] = updates
    save("history", content)


# --- the Transformer script ---


class Block(nn.Module):
    """The layers of one Transformer block under the names that the published code looks for."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.linear_keys = nn.Linear(width, width)
        self.linear_values = nn.Linear(width, width)
        self.linear_query = nn.Linear(width, width)
        self.final_linear = nn.Linear(width, width)
        self.w_1 = nn.Linear(width, inner)
        self.w_2 = nn.Linear(inner, width)


def record_transformer(mlp: Path) -> None:
    content: dict[str, Any] = {"steps": 400, "every": 20, "sparsity": 0.9}
    with of_transformer(mlp) as load:
        seed_all()
        load("dst_util").LAYER_INDEX = 0
        model = Block(20, 40)
        inner = torch.optim.Adam(model.parameters(), lr=1e-3)
        optimizer = SimpleNamespace(_optimizer=inner, step=inner.step)
        args = SimpleNamespace(
            early_stop=False, EM_S=False, init_mode="xavier", WS=True, ws_beta=0.25, itop=False, adaptive_zeta=True,
            chain_removal=True, remove_method="weight_magnitude_soft", regrow_method="CH2_L3n_soft", tiedrank=False,
        )  # fmt: skip
        with quiet():
            scheduler = load("dst_scheduler").DSTScheduler(
                model, optimizer, dense_allocation=1 - 0.9, alpha=0.3, delta=20, T_end=400 * 0.75, args=args
            )
        content["shapes"] = [list(weight.shape) for weight in scheduler.W]
        content["initial"] = [int(mask.sum()) for mask in scheduler.backward_masks]
        updates: list[Any] = []
        for step in range(1, 401):
            for i, weight in enumerate(scheduler.W):
                weight.grad = (
                    distinct((weight.shape[0], weight.shape[1]), 1000 * i + step) * scheduler.backward_masks[i]
                )
            optimizer.step()
            with quiet(), rows_of_update(scheduler, {}, updates):
                scheduler()
        content["updates"] = updates
    save("transformer", content)


# --- the LLaMA script ---


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width, bias=False) for _ in range(4))


class Gated(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(width, inner, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(inner, width, bias=False)


class Layer(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(width), Gated(width, inner)


def llama_arguments(load: Callable[[str], Any], command: str, steps: int, every: int) -> Any:
    with quiet():
        return load("torchrun_main").parse_args(
            "--model_config configs/llama_60m.json --dataset_name c4 --batch_size 64 --total_batch_size 512 "
            f"--single_gpu --num_training_steps {steps} --update_interval {every} --dst_scheduler {command}".split()
        )


LLAMA_CHTS = (
    "--sparsity 0.9 --zeta 0.1 --remove_method weight_magnitude_soft --regrow_method CH2_L3n_soft --adaptive_zeta "
    "--BRF --brf_r 0.3 --degree_dist uniform --start_T 1.0 --end_T 9.0"
)
LLAMA_CHTSS = (
    f"{LLAMA_CHTS} --granet --granet_init_sparsity 0.5 --sparsity_distribution uniform --pruning_method ri "
    "--pruning_scheduler s_shape"
)
LLAMA_GMP = (
    "--sparsity 0.9 --gmp --granet_init_sparsity 0.5 --pruning_method weight_magnitude --pruning_scheduler granet "
    "--history_weights"
)


def llama_scheduler(
    load: Callable[[str], Any], command: str, steps: int, every: int, model: nn.Module | None = None
) -> tuple[nn.Module, Any]:
    args = llama_arguments(
        load, f"{LLAMA_CHTS} {command}" if command.startswith("--start_T") else command, steps, every
    )
    seed_all()
    model = model or Layer(40, 100)
    for i, weight in enumerate(model.parameters()):
        weight.data = distinct((weight.shape[0], weight.shape[1]), 60 + i)
    end = int(steps * 0.75)
    if args.pruning_T_end is None:
        args.pruning_T_end = end
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with quiet():
        return model, load("dst_scheduler").DSTScheduler(
            model, optimizer, alpha=args.zeta, delta=every, T_end=end,
            sparsity_distribution=args.sparsity_distribution, grad_accumulation_n=1, args=args,
        )  # fmt: skip


def llama_run(load: Callable[[str], Any], command: str, steps: int, every: int) -> dict[str, Any]:
    _, pruner = llama_scheduler(load, command, steps, every)
    optimizer = pruner.optimizer
    updates: list[Any] = []
    skips = []
    content: dict[str, Any] = {
        "shapes": [list(weight.shape) for weight in pruner.W],
        "initial": [int(mask.sum()) for mask in pruner.backward_masks],
    }
    left: dict[str, list[Tensor]] = {}

    def watched(name: str) -> Any:
        original = getattr(pruner, name)

        def spy() -> None:
            original()
            left[name] = [mask.clone() for mask in pruner.backward_masks]

        return mock.patch.object(pruner, name, spy)

    with watched("uniform_pruning"), watched("link_removal"), watched("link_regrowth"):
        for step in range(1, steps + 1):
            for i, weight in enumerate(pruner.W):
                weight.grad = distinct((weight.shape[0], weight.shape[1]), 1000 * i + step) * pruner.backward_masks[i]
            before = [mask.clone() for mask in pruner.backward_masks]
            weights = [weight.data.clone() for weight in pruner.W]
            left.clear()
            with quiet():
                does = pruner()
            if does:
                optimizer.step()
            else:
                skips.append(step)
                pruned = left.get("uniform_pruning", before)
                for layer, (kept, after) in enumerate(zip(left["link_removal"], left["link_regrowth"], strict=True)):
                    again = pruned[layer] & ~kept & after
                    same = again & (pruner.W[layer].data == weights[layer])
                    old = after & ~kept & ~again & (pruner.W[layer].data != 0)
                    masks = (before[layer], pruned[layer], kept, after, again, same, old)
                    updates.append([step, layer, *(int(mask.sum()) for mask in masks)])
    return content | {"updates": updates, "optimizer skips": skips, "steps": steps, "every": every}


def record_llama(mlp: Path, llama: Path) -> None:
    with of_llama(llama, mlp) as load:
        content = {
            "chts": llama_run(load, LLAMA_CHTS, 400, 20),
            "chts, history": llama_run(load, f"{LLAMA_CHTS} --history_weights", 400, 20),
            "chtss": llama_run(load, LLAMA_CHTSS, 400, 20),
            "chtss, window to 0.8": llama_run(load, f"{LLAMA_CHTSS} --pruning_T_end 320", 400, 20),
        }
        # The same regrowth twice from the same network, with different random numbers.
        drawn = []
        for seed in (1, 2):
            _, pruner = llama_scheduler(load, LLAMA_CHTS, 400, 20)
            torch.manual_seed(seed)
            mask = random_mask((40, 40), 0.08, 70)
            pruner.backward_masks[0] = mask.clone()
            pruner.link_regrowth()
            drawn.append(rows(pruner.backward_masks[0] & ~mask))
        content["regrowth"] = {"mask": rows(mask), "new": drawn}
    save("llama", content)


class OneLayer(nn.Module):
    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.mlp = nn.Module()
        self.mlp.up_proj = nn.Linear(columns, rows, bias=False)


def record_gmp(mlp: Path, llama: Path) -> None:
    """GMP with history: once as its flag is, and once as if links that never were had no past weight."""
    content: dict[str, Any] = {"steps": 40, "every": 4, "sparsity": 0.9, "lr": 0.5}
    shape = (11, 12)  # so many weights that no number of links depends on how it is rounded
    gradients = [distinct(shape, 80 + step) for step in range(30)]  # the last update is the 28th step
    content["gradients"] = [numbers(gradient) for gradient in gradients]
    with of_llama(llama, mlp) as load:
        for key, flag in (
            ("history", ""),
            ("history of links that were", " --new_history_weights"),
            ("new history", " --new_history_weights"),
        ):
            _, pruner = llama_scheduler(load, LLAMA_GMP + flag, 40, 4, model=OneLayer(*shape))
            if key == "history of links that were":
                pruner.args.new_history_weights = False
            optimizer = torch.optim.SGD([pruner.W[0]], lr=0.5)
            pruner.optimizer = optimizer
            dense = distinct(shape, 60)
            first = pruner.backward_masks[0].clone()
            updates = []
            for step in range(1, 31):
                weight = pruner.W[0]
                weight.grad = gradients[step - 1] * pruner.backward_masks[0]
                before = weight.data.clone()
                with quiet():
                    does = pruner()
                if does:
                    optimizer.step()
                    with torch.no_grad():
                        weight.mul_(pruner.backward_masks[0])
                else:
                    updates.append([step, numbers(before), rows(pruner.backward_masks[0]), numbers(pruner.W[0].data)])
            content[key] = {"dense": numbers(dense), "initial": rows(first), "updates": updates}
    save("gmp", content)


# --- draws ---

DRAWS = 20_000
# Of seven links three are removed softly.
SEVEN = torch.tensor([[0.9, 0.7, 0.0, 0.0], [0.0, 0.8, 0.5, 0.1], [0.6, 0.0, 0.0, 0.4]])


def eleven() -> Tensor:
    """Of eleven links the two small ones go for certain; the seven missing then have scores of six sizes."""
    mask = torch.zeros(16)
    mask[torch.randperm(16, generator=torch.Generator().manual_seed(0))[:9]] = 0.9
    mask[(mask == 0).nonzero()[:2]] = 0.1
    return mask.view(4, 4)


def record_draws(mlp: Path) -> None:
    content: dict[str, Any] = {"draws": DRAWS, "eleven": numbers(eleven()), "seven": numbers(SEVEN)}
    with of_mlp(mlp) as load:
        for method in ("CH2_L3n", "CH3_L3p"):
            command = f"--chain_removal --remove_method weight_magnitude --regrow_method {method}_soft"
            scheduler = one_layer(load, eleven(), command, alpha=0.2)
            torch.manual_seed(7)
            counts: Counter[str] = Counter()
            for _ in range(DRAWS):
                reset(scheduler, [eleven()])
                with quiet():
                    scheduler._dst_step()
                counts["/".join(rows(scheduler.backward_masks[0] & (eleven() < 0.5)))] += 1
            content[f"regrowth {method}"] = dict(sorted(counts.items()))
        for method in ("weight_magnitude_soft", "ri_soft"):
            # At T = 2, half way up.
            command = f"--chain_removal --remove_method {method} --regrow_method random"
            scheduler = one_layer(load, SEVEN, command, alpha=0.45)
            torch.manual_seed(8)
            counts = Counter()
            for _ in range(DRAWS):
                reset(scheduler, [SEVEN])
                scheduler.step = 50
                survivors: dict[int, Tensor] = {}
                with quiet(), rows_of_update(scheduler, survivors):
                    scheduler._dst_step()
                counts["/".join(rows(survivors[0]))] += 1
            content[f"removal {method}"] = dict(sorted(counts.items()))
    save("draws", content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mlp", type=Path, help="checkout of Cannistraci-Hebb-training, with its extension built")
    parser.add_argument("llama", type=Path, help="checkout of Cannistraci-Hebb-Training-Soft-Rule-")
    parser.add_argument("--only", nargs="*", help="names of the fixtures to record; by default all")
    given = parser.parse_args()
    mlp, llama = given.mlp.resolve(), given.llama.resolve()
    torch.set_num_threads(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the extension prints how long each call took
    recorders: dict[str, Callable[[], None]] = {
        "scores": lambda: record_scores(mlp, llama),
        "removal": lambda: record_removal(mlp, llama),
        "percolation": lambda: record_percolation(mlp, llama),
        "csti": lambda: record_csti(mlp),
        "schedules": lambda: record_schedules(mlp, llama),
        "mlp_runs": lambda: record_mlp_runs(mlp),
        "history": lambda: record_history(mlp),
        "transformer": lambda: record_transformer(mlp),
        "llama": lambda: record_llama(mlp, llama),
        "gmp": lambda: record_gmp(mlp, llama),
        "draws": lambda: record_draws(mlp),
    }
    for name in given.only or recorders:
        recorders[name]()
        print(f"{name}.json: {(NUMBERS / f'{name}.json').stat().st_size / 1000:.0f} kB", file=sys.stderr)


if __name__ == "__main__":
    main()
