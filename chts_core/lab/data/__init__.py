"""Load data sets from this machine, or download them. A data set is always split in the same way.

The splits are train, validation and test. Text has no test split. The loaders look in `data_dir`, then in `$CHTS_DATA`,
then in the system's folders, then on the Hugging Face hub through the `datasets` package. For images, call
`load_images`. For translations, call `load_translation`, then `load_vocabulary`, `encode_pairs` and `batches`. For
text, call `load_text` and `load_tokenizer`, then use either `pack` and a `MemoryFeed`, or a `StreamFeed`.
"""

from chts_core.lab.data.batches import Batch, EncodedPairs, batches, collate, encode_pairs
from chts_core.lab.data.images import (
    IMAGE_SETS,
    ImageData,
    Split,
    load_images,
    read_cifar,
    read_idx,
    shifted_and_mirrored,
)
from chts_core.lab.data.number_words import Pair
from chts_core.lab.data.packing import MemoryFeed, StreamFeed, pack
from chts_core.lab.data.sources import DataNotFoundError, Hub, Source, locate
from chts_core.lab.data.subwords import BEGIN, END, PAD, UNKNOWN, Vocabulary, load_vocabulary, train_vocabulary
from chts_core.lab.data.text import TEXT_SETS, TextData, TextStream, load_text
from chts_core.lab.data.tokenizer import TextTokenizer, load_tokenizer, train_tokenizer
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
    "TEXT_SETS",
    "TRANSLATION_SETS",
    "UNKNOWN",
    "Batch",
    "DataNotFoundError",
    "EncodedPairs",
    "Hub",
    "ImageData",
    "MemoryFeed",
    "Pair",
    "PairStream",
    "Source",
    "Split",
    "StreamFeed",
    "TextData",
    "TextStream",
    "TextTokenizer",
    "TranslationData",
    "Vocabulary",
    "batches",
    "collate",
    "encode_pairs",
    "load_images",
    "load_text",
    "load_tokenizer",
    "load_translation",
    "load_vocabulary",
    "locate",
    "pack",
    "read_cifar",
    "read_idx",
    "read_pairs",
    "shifted_and_mirrored",
    "train_tokenizer",
    "train_vocabulary",
]
