import html
import re
from dataclasses import replace

import pytest
import torch

from chts_core.lab import figures
from chts_core.lab.data import TranslationData, train_vocabulary
from chts_core.lab.models import Transformer, TransformerSize
from chts_core.lab.translator import Translator
from chts_core.lab.widgets import TranslationExplorer, TranslationState
from chts_core.lab.widgets.translator import example_translator

PAIRS = [("a cat", "eine Katze"), ("a dog", "ein Hund"), ("<b> & <i>", "'\"$ $\"'")]
