"""The real corpus, where it is: `$CHTS_DATA/multi30k`."""

from dataclasses import replace
from pathlib import Path

import pytest

from chts_core.lab.data import TRANSLATION_SETS, TranslationData, load_translation, locate
from chts_core.lab.train import translation

pytestmark = pytest.mark.skipif(
    locate(TRANSLATION_SETS["multi30k"]) is None, reason="Multi30k is not here; put its files into $CHTS_DATA/multi30k"
)


@pytest.fixture(scope="module")
def corpus() -> TranslationData:
    return load_translation("multi30k")


def test_multi30k_has_its_pairs(corpus: TranslationData) -> None:
    assert [len(list(part)) for part in (corpus.train, corpus.validation, corpus.test)] == [29_000, 1014, 1000]
    assert next(iter(corpus.train)) == (
        "Two young, White males are outside near many bushes.",
        "Zwei junge weiße Männer sind im Freien in der Nähe vieler Büsche.",
    )


def test_the_recorded_runs_are_of_this_corpus(corpus: TranslationData) -> None:
    assert {row["data"] for row in translation.recorded() if row["dataset"] == "multi30k"} == {corpus.digest}


@pytest.mark.parametrize("every", [10, pytest.param(1, marks=pytest.mark.full)])
def test_a_sparse_translator_trains_on_multi30k(corpus: TranslationData, every: int, tmp_path: Path) -> None:
    """Of all its pairs, or of every tenth: most of the time goes into their subwords."""
    recipe = replace(
        translation.RECIPES["multi30k_small"],
        size="tiny",
        vocabulary=1000,
        steps=30,
        warmup=10,
        update_every=5,
        iterative_warmup=2,
        validate_every=10,
        execution="masked",
    )
    pairs = replace(corpus, train=list(corpus.train)[::every], validation=corpus.validation[::every])
    task = translation.prepare(pairs, recipe, tmp_path)
    assert (len(task.train), task.train.left_out) == (29_000 // every, 0)
    few = replace(task, validation_pairs=task.validation_pairs[:5], test_pairs=task.test_pairs[:5])
    run = translation.train(few, "chtss", 0.9, recipe)
    losses = [look.loss for look in run.looks]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 6  # guessing costs log 1000 = 6.9
    assert run.density == pytest.approx(0.1, abs=1e-4)
    assert len(run.translations) == 5
