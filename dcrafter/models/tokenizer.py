"""CLIP's tokenizer (arXiv 2103.00020, section 2.4): byte pair encoding (arXiv 1508.07909) of lower-cased text.

The vocabulary is a data file of open_clip_torch, read without importing that package, which would take seconds.
"""

from __future__ import annotations

import functools
import gzip
import html
import re
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import regex
import torch
from torch import Tensor

from dcrafter.errors import WeightsError

VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"
MERGES = 48894  # of the file's; with 2·256 bytes and two special tokens the vocabulary has 49408
START, END = "<start_of_text>", "<end_of_text>"
END_OF_WORD = "</w>"
_WORDS = regex.compile(
    rf"{START}|{END}|'s|'t|'re|'ve|'m|'ll|'d|[\p{{L}}]+|[\p{{N}}]|[^\s\p{{L}}\p{{N}}]+", regex.IGNORECASE
)
_PLAIN = re.compile(r"[\t\n -%'-~]*")  # printable ASCII without &: has nothing to mend


class Tokenizer:
    """Text → token ids.

    Ids are 0…255 for bytes, 256…511 for bytes that end a word, then one per merge in the order of the file, then
    start and end of text.
    """

    def __init__(self, vocabulary: Path) -> None:
        lines = gzip.decompress(vocabulary.read_bytes()).decode("utf-8").split("\n")
        merges = [tuple(line.split()) for line in lines[1 : MERGES + 1]]  # behind a line with the version
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}
        self.byte_names = _byte_names()
        names = [*self.byte_names.values()]
        names += [name + END_OF_WORD for name in names] + ["".join(pair) for pair in merges] + [START, END]
        self.ids = {name: index for index, name in enumerate(names)}

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without start and end."""
        return [token for word in _WORDS.findall(clean(text)) for token in self._encode_word(word)]

    def __call__(self, texts: list[str], context_length: int) -> Tensor:
        """→ (n, context_length) token ids between start and end, cut to fit, padded with 0."""
        tokens = torch.zeros(len(texts), context_length, dtype=torch.long)
        for row, text in zip(tokens, texts, strict=True):
            ids = [self.ids[START], *self.encode(text)[: context_length - 2], self.ids[END]]
            row[: len(ids)] = torch.tensor(ids)
        return tokens

    def _encode_word(self, word: str) -> list[int]:
        """Merge the neighbors that come first in the list of merges, until none is left that is in it."""
        if word in (START, END):
            return [self.ids[word]]
        parts = [self.byte_names[byte] for byte in word.encode("utf-8")]
        parts[-1] += END_OF_WORD
        while len(parts) > 1:
            first, second = best = min(pairwise(parts), key=lambda pair: self.ranks.get(pair, MERGES))
            if best not in self.ranks:
                break
            merged: list[str] = []
            for part in parts:
                # A part that was just merged is not merged again in this round: it is longer than `first`.
                if part == second and merged and merged[-1] == first:
                    merged[-1] = first + second
                else:
                    merged.append(part)
            parts = merged
        return [self.ids[part] for part in parts]


def clean(text: str) -> str:
    """Mend broken encodings and HTML entities, join runs of white space, lower the case."""
    if not _PLAIN.fullmatch(text):
        import ftfy

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


def _byte_names() -> dict[int, str]:
    """The character that stands for each byte in the vocabulary: itself if it is printable, else one above 255."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


@functools.cache
def load_tokenizer() -> Tokenizer:
    """The published tokenizer.

    Raises:
        WeightsError: open_clip_torch, which brings the vocabulary, is not installed.
    """
    package = find_spec("open_clip")  # finds a package's folder without running it
    for folder in package.submodule_search_locations or [] if package else []:
        if (vocabulary := Path(folder) / VOCABULARY).is_file():
            return Tokenizer(vocabulary)
    raise WeightsError(f"CLIP's vocabulary {VOCABULARY} is missing", "Install open_clip_torch again")


def tokenize(texts: list[str], context_length: int = 77) -> Tensor:
    """→ (n, context_length) token ids, padded with 0. What does not fit is cut: see `is_cut`."""
    return load_tokenizer()(texts, context_length)


def is_cut(text: str, context_length: int = 77) -> bool:
    """True if a text has more tokens than the tower reads (start and end take two places)."""
    return len(load_tokenizer().encode(text)) > context_length - 2
