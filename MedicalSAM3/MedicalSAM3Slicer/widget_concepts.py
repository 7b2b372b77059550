"""The text box for concepts: suggestions while typing, presets, history, and a word where something looks wrong."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from typing import Any

import qt
from slicer.i18n import tr as _

from MedicalSAM3Lib.presets import load_presets

from .phrases import likelyMeant, splitConcepts

HISTORY_SETTING = "MedicalSAM3/History"
LONGEST_HISTORY = 20
MOST_WORDS, MOST_CHARACTERS = 25, 120
"""The model reads 32 tokens. Those are about 25 words; how many it takes exactly, only the engine can say."""

_SEPARATORS = ",;\n"


class PopupKeys(qt.QObject):
    """Makes Enter and Tab take the suggestion, and Ctrl+Enter run, while suggestions are shown."""

    def __init__(self, take: Callable[[], None], run: Callable[[], None]) -> None:
        qt.QObject.__init__(self)
        self.take, self.run = take, run

    def eventFilter(self, watched: Any, event: Any) -> bool:
        """Called by Qt for each event of the list of suggestions."""
        if event.type() != qt.QEvent.KeyPress:
            return False
        isEnter = event.key() in (qt.Qt.Key_Return, qt.Qt.Key_Enter)
        if isEnter and event.modifiers() & qt.Qt.ControlModifier:
            self.run()
            return True
        if isEnter or event.key() == qt.Qt.Key_Tab:
            self.take()
            return True
        return False


class ConceptsPart:
    """What the user wants to have segmented.

    Args:
        ui: The widgets of the form.
        complete: Gives names of known concepts for what was typed: ``complete(typed, limit)``.
        onChange: Called after each change of the text.
        onRun: Called for Ctrl+Enter.
    """

    def __init__(
        self,
        ui: Any,
        complete: Callable[[str, int], list[str]],
        onChange: Callable[[], None],
        onRun: Callable[[], None],
    ) -> None:
        self.ui, self._complete, self._onChange, self._onRun = ui, complete, onChange, onRun
        self._filling = False
        self._model = qt.QStringListModel()
        self._completer = qt.QCompleter()
        self._completer.setModel(self._model)
        self._completer.setCompletionMode(qt.QCompleter.UnfilteredPopupCompletion)
        self._completer.setWidget(ui.conceptsEdit)
        self._completer.connect("activated(QString)", self.take)
        self._keys = PopupKeys(self.takeCurrent, self._runFromPopup)
        self._completer.popup().installEventFilter(self._keys)  # after the completer's own: it is asked first
        ui.presetBox.addItems(presetTitles())
        ui.hintLabel.setTextInteractionFlags(qt.Qt.TextBrowserInteraction)
        self._showHistory()
        ui.conceptsEdit.connect("textChanged()", self._changed)
        ui.presetBox.connect("activated(int)", self._addPreset)
        ui.historyBox.connect("activated(int)", self._useHistory)
        ui.hintLabel.connect("linkActivated(QString)", self._correct)
        self._hint()

    def cleanup(self) -> None:
        """Let go of the widgets."""
        self._completer.popup().removeEventFilter(self._keys)
        self._completer.setWidget(None)

    def concepts(self) -> list[str]:
        """What was typed, each concept once."""
        return splitConcepts(self.ui.conceptsEdit.plainText)

    def hideSuggestions(self) -> None:
        """Until the next letter."""
        self._completer.popup().hide()

    def setText(self, text: str) -> None:
        """Replace the text, without suggestions."""
        if text == self.ui.conceptsEdit.plainText:  # the cursor stays
            return
        self._filling = True
        try:
            self.ui.conceptsEdit.setPlainText(text)
            self.ui.conceptsEdit.moveCursor(qt.QTextCursor.End)
        finally:
            self._filling = False

    def remember(self, concepts: list[str]) -> None:
        """Put what was asked on top of the history."""
        line = ", ".join(concepts)
        lines = [line, *(other for other in readHistory() if other.casefold() != line.casefold())]
        qt.QSettings().setValue(HISTORY_SETTING, json.dumps(lines[:LONGEST_HISTORY]))
        self._showHistory()

    def takeCurrent(self) -> None:
        """Take the suggestion that is marked, or the first."""
        names = self._model.stringList()
        row = self._completer.popup().currentIndex().row()
        if names:
            self.take(names[max(row, 0)])

    def take(self, name: str) -> None:
        """Put a suggestion in the place of the word that is being typed."""
        self._completer.popup().hide()
        text, place = self.ui.conceptsEdit.plainText, self.ui.conceptsEdit.textCursor().position()
        first, last = currentWord(text, place)
        head = text[:first] + (" " if text[:first].endswith(tuple(",;")) else "")
        self.setText(head + name + text[last:])

    def _changed(self) -> None:
        self._hint()
        self._onChange()
        if not self._filling:
            self._suggest()

    def _suggest(self) -> None:
        text, place = self.ui.conceptsEdit.plainText, self.ui.conceptsEdit.textCursor().position()
        first, last = currentWord(text, place)
        typed = text[first:last].strip()
        names = self._complete(typed, 12) if len(typed) > 1 else []
        if not names or names[0].casefold() == typed.casefold():
            self._completer.popup().hide()
            return
        self._model.setStringList(names)
        self._completer.complete()

    def _runFromPopup(self) -> None:
        self._completer.popup().hide()
        self._onRun()

    def _addPreset(self, row: int) -> None:
        self.ui.presetBox.setCurrentIndex(0)
        if row > 0:
            asked = self.concepts()
            known = {phrase.casefold() for phrase in asked}
            names = [concept.name for concept in list(load_presets().values())[row - 1]]
            self.setText(", ".join([*asked, *(name for name in names if name not in known)]))

    def _useHistory(self, row: int) -> None:
        lines = readHistory()
        self.ui.historyBox.setCurrentIndex(0)
        if 0 < row <= len(lines):
            self.setText(lines[row - 1])

    def _showHistory(self) -> None:
        while self.ui.historyBox.count > 1:
            self.ui.historyBox.removeItem(1)
        self.ui.historyBox.addItems(readHistory())

    def _hint(self) -> None:
        """Say what may be wrong with the text; a word that is not known is allowed."""
        hints = [
            _('"{start}..." is longer than the model reads (about 25 words); shorten it.').format(
                start=html.escape(phrase[:20])
            )
            for phrase in self.concepts()
            if isTooLong(phrase)
        ]
        for phrase in [phrase for phrase in self.concepts() if not isTooLong(phrase)]:
            meant = likelyMeant(phrase)
            if meant and len(hints) < 3:
                hints.append(
                    _('"{phrase}" is not in the vocabulary. Did you mean {link}?').format(
                        phrase=html.escape(phrase),
                        link=f'<a href="{html.escape(phrase)}|{html.escape(meant)}">{html.escape(meant)}</a>',
                    )
                )
        self.ui.hintLabel.text = "<br>".join(hints)
        self.ui.hintLabel.visible = bool(hints)

    def _correct(self, link: str) -> None:
        wrong, right = html.unescape(link).split("|", 1)
        self.setText(re.sub(re.escape(wrong), right, self.ui.conceptsEdit.plainText, count=1))


def presetTitles() -> list[str]:
    """The presets of the vocabulary, in their order, for users."""
    return [name.replace("_", " ").capitalize() for name in load_presets()]


def readHistory() -> list[str]:
    """What was asked before, the latest first; nothing where the setting is not what this module wrote."""
    try:
        lines = json.loads(qt.QSettings().value(HISTORY_SETTING, "[]"))
    except (TypeError, ValueError):
        return []
    return [str(line) for line in lines] if isinstance(lines, list) else []


def isTooLong(phrase: str) -> bool:
    """Whether the model will hardly read a phrase to its end."""
    return len(phrase.split()) > MOST_WORDS or len(phrase) > MOST_CHARACTERS


def currentWord(text: str, place: int) -> tuple[int, int]:
    """Where the concept around a place in a text begins and ends."""
    first = max((text.rfind(mark, 0, place) for mark in _SEPARATORS), default=-1) + 1
    ends = [at for mark in _SEPARATORS if (at := text.find(mark, place)) >= 0]
    return first, min(ends, default=len(text))
