"""One spelling for typed phrases: case, punctuation, plural, British spelling, and the side apart.

Two things are made of a phrase. Its *spelling* (``split_side``) keeps the order of the words and is what colours are
derived from. Its *key* (``key_of``) forgets the order and the endings, so that "lobe, temporal, left",
"left temporal lobe" and "temporal lobes (L)" are one, and "hepatic cyst" is "liver cyst": it is what concepts are
looked up by.
"""

from __future__ import annotations

import re
import unicodedata

SIDES = {"left": "left", "lt": "left", "l": "left", "right": "right", "rt": "right", "r": "right"}

_LATIN_SIDES = {
    "sinister": "left", "sinistra": "left", "sinistrum": "left",
    "dexter": "right", "dextra": "right", "dextrum": "right",
}  # fmt: skip

BOTH = frozenset({"both", "bilateral"})

_FILLERS = frozenset({"a", "an", "the", "of", *BOTH, "side", "sided"})

_LINKS = frozenset({"in", "on", "to", "from", "structure", "entire", "set"})
"""Words that change nothing about what is meant, beside the fillers: "metastasis to bone", "set of ribs"."""

FUNCTION_WORDS = frozenset({*SIDES, *_LATIN_SIDES, *_FILLERS, *_LINKS})
"""Words that say which side or how words hang together, and name nothing."""

_SINGULARS = {
    "atria": "atrium",
    "bronchi": "bronchus",
    "bronchia": "bronchus",
    "calculi": "calculus",
    "caries": "caries",
    "epididymides": "epididymis",
    "feet": "foot",
    "femora": "femur",
    "foramina": "foramen",
    "ganglia": "ganglion",
    "glomeruli": "glomerulus",
    "glutei": "gluteus",
    "hila": "hilum",
    "hippocampi": "hippocampus",
    "humeri": "humerus",
    "lens": "lens",
    "lenses": "lens",
    "maxillae": "maxilla",
    "menisci": "meniscus",
    "metastases": "metastasis",
    "mitochondria": "mitochondrion",
    "nates": "nates",
    "nevi": "nevus",
    "nuclei": "nucleus",
    "ova": "ovum",
    "patellae": "patella",
    "phalanges": "phalanx",
    "plexuses": "plexus",
    "pons": "pons",
    "scapulae": "scapula",
    "septa": "septum",
    "stenoses": "stenosis",
    "teeth": "tooth",
    "testes": "testis",
    "thalami": "thalamus",
    "thrombi": "thrombus",
    "tibiae": "tibia",
    "ulnae": "ulna",
    "vertebrae": "vertebra",
}
"""Plurals that no rule makes singular, and words that only look like plurals."""

_SPELLINGS = {
    "disk": "disc",
    "grey": "gray",
    "haemorrhage": "hemorrhage",
    "oedema": "edema",
    "oesophagus": "esophagus",
    "tumour": "tumor",
}

_SAME = {
    "1st": "1", "2nd": "2", "3rd": "3", "4th": "4", "5th": "5", "6th": "6",
    "7th": "7", "8th": "8", "9th": "9", "10th": "10", "11th": "11", "12th": "12",
    "first": "1", "second": "2", "third": "3", "fourth": "4", "fifth": "5", "sixth": "6",
    "seventh": "7", "eighth": "8", "ninth": "9", "tenth": "10", "eleventh": "11", "twelfth": "12",
    "anal": "anus", "aortic": "aorta", "atrial": "atrium", "bronchial": "bronchus", "cardiac": "heart",
    "cerebellar": "cerebellum", "colonic": "colon", "costal": "rib", "dental": "tooth", "duodenal": "duodenum",
    "esophageal": "esophagus", "femoral": "femur", "fetal": "fetus", "gastric": "stomach", "hepatic": "liver",
    "humeral": "humerus", "laryngeal": "larynx", "mammary": "breast", "mandibular": "mandible", "maxillary": "maxilla",
    "nasal": "nose", "nasopharyngeal": "nasopharynx", "ocular": "eye", "ovarian": "ovary", "pancreatic": "pancreas",
    "patellar": "patella", "placental": "placenta", "pleural": "pleura", "prostatic": "prostate",
    "pulmonary": "lung", "rectal": "rectum", "renal": "kidney", "retinal": "retina", "splenic": "spleen",
    "testicular": "testis", "thoracic": "thorax", "tibial": "tibia", "tracheal": "trachea", "ureteric": "ureter",
    "uterine": "uterus", "vertebral": "vertebra",
    "calculus": "stone", "fibre": "fiber", "met": "metastasis", "neoplasm": "tumor",
}  # fmt: skip
"""Words that mean the same in a name: numerals, adjectives and their nouns, a few synonyms."""

_BRITISH = re.compile(r"[ao]e(?=\w\w)")
"""The two letters that American spelling writes as one "e": haematoma, caecum, foetus."""


def split_side(phrase: str) -> tuple[str, str]:
    """The side ("left", "right" or "") and the other words of a phrase, in one spelling.

    A single "l" or "r" is a side only as the first or the last word. A phrase that names both sides
    keeps both words, and so fits no concept.
    """
    words = spell(phrase)
    sides = {SIDES[word] for place, word in enumerate(words) if _is_side(word, place, len(words))}
    if len(sides) != 1:
        return "", " ".join(words)
    rest = [word for place, word in enumerate(words) if not _is_side(word, place, len(words))]
    return sides.pop(), " ".join(rest)


def normalise(phrase: str) -> str:
    """One spelling for all ways of typing a phrase: "Kidneys, RIGHT" and "right kidney" give "right kidney"."""
    return " ".join(part for part in split_side(phrase) if part)


def key_of(phrase: str) -> tuple[str, tuple[str, ...]]:
    """The side, and what the other words mean in alphabetical order: equal for all ways of saying the same."""
    side, rest = split_side(phrase)
    words = [_meaning(word) for word in rest.split() if word not in _LINKS]
    latin = {_LATIN_SIDES[word] for word in words if word in _LATIN_SIDES}
    if latin and latin <= {side or min(latin)}:
        side = side or latin.pop()
        words = [word for word in words if word not in _LATIN_SIDES]
    return side, tuple(sorted(words))


def spell(phrase: str) -> list[str]:
    """The words of a phrase in one spelling, in their order, without those that say nothing."""
    # "BrainStem" is two words; so labels of data sets are written.
    text = re.sub(r"([a-z])([A-Z])", r"\1 \2", unicodedata.normalize("NFKC", phrase)).casefold()
    # Letters and digits of every script are words, everything else parts them.
    words = re.findall(r"[^\W_]+", text)
    last = len(words) - 1
    # A phrase that ends in "of" is not finished: "body of" is no body.
    return [
        _SPELLINGS.get(one, one)
        for place, word in enumerate(words)
        if (one := _singular(word)) not in _FILLERS or (one == "of" and place == last)
    ]


def asks_for_both(phrase: str) -> bool:
    """Whether a phrase asks for both of a pair in so many words: "both kidneys"."""
    return not BOTH.isdisjoint(re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", phrase).casefold()))


def word_forms() -> frozenset[str]:
    """Every word that has a rule here, as somebody could type it."""
    return frozenset({*FUNCTION_WORDS, *_SINGULARS, *_SPELLINGS, *_SAME})


def _is_side(word: str, place: int, count: int) -> bool:
    return word in SIDES and (len(word) > 1 or (count > 1 and place in (0, count - 1)))


def _meaning(word: str) -> str:
    plain = _BRITISH.sub("e", word) if len(word) > 4 else word
    return _SAME.get(plain, plain)


def _singular(word: str) -> str:
    if word in _SINGULARS:
        return _SINGULARS[word]
    if len(word) < 4 or word.endswith(("ss", "us", "is", "as", "os")):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("sses", "shes", "ches", "xes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") else word
