"""PySide6 classes that behave in Python as Slicer's PythonQt lets them: properties are attributes, signals have texts.

Written from PythonQt's documentation; stricter where silence would hide a mistake. See README.md.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import shiboken6
from PySide6 import QtCore, QtGui, QtWidgets

Slot = Callable[..., Any]

EXEMPT = {"sizeHint", "minimumSizeHint"}
"""Read by Qt itself through Python: as properties they would call themselves for ever."""

FAULTS: list[Exception] = []
"""What connected callables raised; tests see to it that there is nothing."""

OWN = {"connect", "disconnect", "className", "name", "delete"}
QT5_TOO = {"currentIndexChanged(QString)": False}
"""Signals that only one of Qt 5 and Qt 6 has; to connect one is a mistake."""


class PythonQt:
    """Mixed into a PySide6 class, in front of it."""

    is_stand_in = True

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_") or name in EXEMPT or name in OWN or name == "is_stand_in":
            return object.__getattribute__(self, name)
        check_alive(self, name)
        if QtCore.QObject.metaObject(self).indexOfProperty(name) >= 0 or name.encode() in dynamic(self):
            return QtCore.QObject.property(self, name)
        try:
            return super().__getattribute__(name)
        except AttributeError:
            child = QtCore.QObject.findChild(self, QtCore.QObject, name)
            if child is None:
                raise
            return child

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
            return
        check_alive(self, name)
        meta = QtCore.QObject.metaObject(self)
        index = meta.indexOfProperty(name)
        if index >= 0:
            if not meta.property(index).isWritable():
                raise AttributeError(f"Property '{name}' of type '{meta.className()}' object is not writable.")
            if not QtCore.QObject.setProperty(self, name, value):
                raise ValueError(f"Property '{name}' of a {meta.className()} does not take {value!r}.")
        elif "is_stand_in" in type(self).__dict__:  # a class of Qt's own; Python subclasses may carry more
            raise AttributeError(f"'{meta.className()}' object has no attribute '{name}'.")
        else:
            super().__setattr__(name, value)

    @property
    def name(self) -> str:
        """The object's name, as PythonQt adds it."""
        return str(QtCore.QObject.objectName(self))

    def className(self) -> str:
        """Name of the C++ class."""
        return str(QtCore.QObject.metaObject(self).className())

    def delete(self) -> None:
        """Destroy the C++ object at once."""
        shiboken6.delete(self)

    def connect(self, signal: str, receiver: Any, slot: str | None = None) -> bool:
        """Connect "name(types)" to a callable, or to a receiver's slot."""
        target = getattr(receiver, slot.split("(")[0]) if slot else receiver
        trimmed = trim(target, signal)
        find_signal(self, signal).connect(trimmed)
        self._connected().append((signal, target, trimmed))
        return True

    def disconnect(self, signal: str, receiver: Any = None, slot: str | None = None) -> bool:
        """Undo ``connect``."""
        target = getattr(receiver, slot.split("(")[0]) if slot else receiver
        kept = []
        for entry in self._connected():
            if entry[0] == signal and target in (None, entry[1]):
                find_signal(self, signal).disconnect(entry[2])
            else:
                kept.append(entry)
        self._connected()[:] = kept
        return True

    def _connected(self) -> list[tuple[str, Slot, Slot]]:
        if "_connections" not in self.__dict__:
            self._connections: list[tuple[str, Slot, Slot]] = []
        return self._connections


def check_alive(thing: Any, name: str) -> None:
    """PythonQt says so when the C++ object has gone; to look further would end the process."""
    if not shiboken6.isValid(thing):
        raise ValueError(f"Trying to access '{name}' of a destroyed {type(thing).__name__} object")


def dynamic(thing: Any) -> list[bytes]:
    return [bytes(name.data()) for name in QtCore.QObject.dynamicPropertyNames(thing)]


def find_signal(sender: Any, signal: str) -> Any:
    """The signal of a text such as "clicked(bool)".

    Raises:
        AttributeError: The class has none with exactly these types, in Qt 6 or in Qt 5.
    """
    name, types = signal.split("(", 1)
    alias = getattr(type(sender), "SIGNALS", {}).get(signal)
    if alias:
        return object.__getattribute__(sender, alias)
    meta = QtCore.QObject.metaObject(sender)
    normal = bytes(QtCore.QMetaObject.normalizedSignature(signal).data()).decode()
    if signal in QT5_TOO or meta.indexOfSignal(normal) < 0:
        raise AttributeError(f"{meta.className()} has no signal {signal}.")
    bound = object.__getattribute__(sender, name)
    arguments = tuple(part for part in types.rstrip(")").split(",") if part)
    overloads = [method for method in signals_of(meta) if method.split("(")[0] == name]
    if len(overloads) <= 1:
        return bound
    python = {"bool": bool, "int": int, "QString": str, "double": float}
    try:
        return bound[tuple(python.get(argument, argument) for argument in arguments)] if arguments else bound
    except (IndexError, KeyError, TypeError):
        return bound


def signals_of(meta: QtCore.QMetaObject) -> Iterator[str]:
    for index in range(meta.methodCount()):
        method = meta.method(index)
        if method.methodType() == QtCore.QMetaMethod.MethodType.Signal:
            yield bytes(method.methodSignature().data()).decode()


def trim(target: Slot, signal: str) -> Slot:
    """A callable that drops the arguments that the target does not take, and those that the text does not name."""
    named = len([part for part in signal.split("(", 1)[1].rstrip(")").split(",") if part])
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        most = named
    else:
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        many = any(parameter.kind == inspect.Parameter.VAR_POSITIONAL for parameter in parameters)
        most = named if many else min(named, sum(parameter.kind in positional for parameter in parameters))

    def called(*arguments: Any) -> None:
        try:
            target(*arguments[:most])
        except Exception as error:  # Qt would print it and go on
            FAULTS.append(error)
            raise

    return called


def _made(cls: type) -> type:
    return type(cls.__name__, (PythonQt, cls), {"is_stand_in": True, "__module__": "qt"})


_classes: dict[type, type] = {}


def like_pythonqt(cls: Any) -> Any:
    """The class with PythonQt's ways, made once; what is no QObject stays as it is."""
    wanted = isinstance(cls, type) and issubclass(cls, QtCore.QObject) and cls is not QtWidgets.QApplication
    if not wanted:
        return cls
    if cls not in _classes:
        _classes[cls] = _made(cls)
    return _classes[cls]


def find_class(name: str) -> Any:
    """A name of QtWidgets, QtGui or QtCore, as ``qt`` has it; None where there is none."""
    for module in (QtWidgets, QtGui, QtCore):
        if hasattr(module, name):
            return like_pythonqt(getattr(module, name))
    return None
