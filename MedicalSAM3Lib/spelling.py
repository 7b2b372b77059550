"""Misspelled words of the vocabulary put right, and no others: "kidny" is a kidney, a river is no liver.

A word is put right when a word of the vocabulary is a slip away: a letter too many, too few, another or two swapped;
two slips in long words; never the first letter. The phrase that comes out must be a concept, and only one. What people
write every day is no slip: those are the words that the CLIP tokenizer knows whole, and a list of others. Beside a word
of the vocabulary even such a word can be one, by a letter too many or too few ("spinal chord", "thyroid glad").
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from itertools import product
from math import prod

from MedicalSAM3Lib.concepts import Concept, find_concept, load_concepts
from MedicalSAM3Lib.resources import resource
from MedicalSAM3Lib.words import FUNCTION_WORDS, spell, word_forms

LEAST_LETTERS = 4
"""Of a word that can be misspelled; of shorter ones too many are a slip away."""

LONG = 8
"""Letters from which on a word may hold two slips."""

MOST_READINGS = 256
"""Of one phrase that are tried; one that could be more is left as it is."""

ORDINARY = frozenset(
    """
    abnormally abscissa adrenalin anklet anklets annals arachnid arachnids aral articulating axil backbend badder
    balk bask belay belies bilge bilk blander bleating bleep bleeping bleeps blinding blooding bloops bonce boned
    boner bong bonk bonny boonies bowell brail brainstorm brainy braise brawn breading breasted breezing brest brood
    broods bruins bruiser caning canker canner cannes canter capua carnal carnies carny carpel carthage caryatid
    ceil cella celt celts chancery chasm chasms chert chesty cicatrice clarification clary clod clods clog clogs
    clop clout cloy codon codons cogon coital colonist colonists colonize consolidating coot coots coracoid corned
    cornelia cornet cornets cornmeal corollary coronach costar cotta crept crinoid crud crux curies cuspidor
    cyclonic cytoplast dais douse douses duma durra electrojet embow enema eyeballed facies facture fecal feck
    fiduciary fingered flack flacks flak flan flinger flunk flunks forepart forewarn gaiter gamester gauzy gladstone
    glut goldstone granular grappler groan groans guideline guidelines gulley hammering hampering hamstrung heady
    hearst hearth hearths herat herpetic hibernia hieratic hond honk honks hooky humoral hydrocephaly ileus incision
    incisions infesting infliction infraction infractions infuse ingesting insulate interstice intertwine intestate
    irrigate joist joists klee kneed kneel kneels liber lifer lifers liger ligers liken likens liker limp limps limy
    liniment liquored livre lunge lunges lungi lunk lymphoid lysozyme maas magma mammy manipular mattoid miosis moke
    molnar molt mope mopes moses mote mouthy muscled musicale muss myelin myles nantes nape narcosis nares nave
    naves needled nephrosis nervy neurosis nome nominal noose nooses nosed nosey nosh nosy nouse nucleic nucleolus
    obit obits oracular ovular pallium panacea papillon peacemaker peacemakers penises piacenza pinny plural polled
    pollux postdate prismatic prostrated pupal radium reginald retinol saar sartorial scad scads scag scald scalping
    scaly scat scission scull sculls sear sears shang shouldered shrank sinewy skein skim skims skink skinks skint
    skulk skulks smoulder solenoid spank spanks sphenic spheroid spinet spiny spline splines stank stapled steno
    stook stoop stoops stratum struma sulla supine swank teethe tenon tentacle tentacles threaded thready throaty
    thrombin thump thumps timor timorous tongued toot toothy toots trachoma trapezium trice troth udine urea ursine
    uttering veiny vellum venal vend vends venin vermin verna virtuous viscous whist wist wrest writ writs
    """.split()
)
"""Words that are no slips, though one from a concept's name, and that the tokenizer parts."""


def put_right(phrase: str) -> tuple[str, Concept] | None:
    """A misspelled phrase as it was meant, and its concept; None when it means nothing, or could mean two things."""
    words = spell(phrase)
    options = [(word,) if is_known(word) else slips_from(word) for word in words]
    if all(options) and any(option != (word,) for option, word in zip(options, words, strict=True)):
        return _the_one(options)
    # Two everyday words cannot both be slips; one can, where another word names something and more than a side.
    everyday = [n for n, word in enumerate(words) if word in _everyday() and word not in _vocabulary()]
    if len(everyday) != 1 or not all(options) or not set(words) & _vocabulary() - FUNCTION_WORDS:
        return None
    word = words[everyday[0]]
    near = (other for other in slips_from(word) if other not in FUNCTION_WORDS and abs(len(other) - len(word)) == 1)
    options[everyday[0]] = tuple(near)
    return _the_one(options)


def is_known(word: str) -> bool:
    """Whether a word, as ``words.spell`` gives it, is no misspelling of the vocabulary's."""
    return word in _vocabulary() or len(word) < LEAST_LETTERS or not word.isalpha() or word in _everyday()


def is_a_slip(typed: str, meant: str, slips: int = 1) -> bool:
    """Whether a word comes of another by at most so many slips: a letter too many, too few, another, or two swapped."""
    if abs(len(typed) - len(meant)) > slips:
        return False
    # Distance of Damerau and Levenshtein, row by row (optimal string alignment).
    before: list[int] = []
    last = list(range(len(meant) + 1))
    for i, letter in enumerate(typed, start=1):
        row = [i]
        for j, other in enumerate(meant, start=1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == meant[j - 2] and typed[i - 2] == other:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before, last = last, row
    return last[-1] <= slips


@cache
def slips_from(word: str) -> tuple[str, ...]:
    """The words of the vocabulary that a misspelled one may have been: all at the least number of slips, or none."""
    if len(word) < LEAST_LETTERS:
        return ()
    for slips in range(1, 3 if len(word) >= LONG else 2):
        close = tuple(other for other in _by_letter().get(word[0], ()) if is_a_slip(word, other, slips))
        if close:
            return close
    return ()


def _the_one(options: Sequence[tuple[str, ...]]) -> tuple[str, Concept] | None:
    found: dict[str, tuple[str, Concept]] = {}
    if prod(map(len, options)) > MOST_READINGS:
        return None
    for words in product(*options):
        phrase = " ".join(words)
        concept = find_concept(phrase)
        if concept:
            found.setdefault(concept.concept_id, (phrase, concept))
    return next(iter(found.values())) if len(found) == 1 else None


@cache
def _vocabulary() -> frozenset[str]:
    phrases = (phrase for concept in load_concepts() for phrase in concept.phrases)
    return frozenset({*word_forms(), *(word for phrase in phrases for word in spell(phrase))})


@cache
def _by_letter() -> dict[str, tuple[str, ...]]:
    words: dict[str, list[str]] = {}
    for word in sorted(_vocabulary()):
        if len(word) >= LEAST_LETTERS and word.isalpha():
            words.setdefault(word[0], []).append(word)
    return {letter: tuple(found) for letter, found in words.items()}


@cache
def _everyday() -> frozenset[str]:
    tokens = json.loads((resource("tokenizer") / "vocab.json").read_text(encoding="utf-8"))
    ordinary = {spelled for word in ORDINARY for spelled in spell(word)}
    return frozenset(ordinary | {token.removesuffix("</w>") for token in tokens if token.endswith("</w>")})
