"""Data sets: found on this machine or fetched, always split into train, validation and test.

Looked for in `data_dir`, then `$CHTS_DATA`, then where the system keeps it, then on the Hugging Face hub through the
`datasets` package. Images: `load_images`. Translations: `load_translation`, then `load_vocabulary`, `encode_pairs` and
`batches`.
"""

from chts_core.lab.data.batches import Batch, EncodedPairs, batches, collate, encode_pairs
from chts_core.lab.data.images import IMAGE_SETS, ImageData, Split, load_images, read_cifar, read_idx
from chts_core.lab.data.number_words import Pair
from chts_core.lab.data.sources import DataNotFoundError, Hub, Source, locate
from chts_core.lab.data.subwords import BEGIN, END, PAD, UNKNOWN, Vocabulary, load_vocabulary, train_vocabulary
from chts_core.lab.data.translation import (
    TRANSLATION_SETS,
    PairStream,
    TranslationData,
    load_translation,
    read_pairs,
)

__all__ = [
    "BEGIN",
    "END",
    "IMAGE_SETS",
    "PAD",
    "TRANSLATION_SETS",
    "UNKNOWN",
    "Batch",
    "DataNotFoundError",
    "EncodedPairs",
    "Hub",
    "ImageData",
    "Pair",
    "PairStream",
    "Source",
    "Split",
    "TranslationData",
    "Vocabulary",
    "batches",
    "collate",
    "encode_pairs",
    "load_images",
    "load_translation",
    "load_vocabulary",
    "locate",
    "read_cifar",
    "read_idx",
    "read_pairs",
    "train_vocabulary",
]
