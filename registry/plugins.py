"""The plugin registry: which names exist, what they stand for, and how one is made.

`Registry` is generic (backbones here; extractors and datasets follow the same pattern). It knows a
name long before it imports the code behind it, so listing names costs nothing. A name comes from

- a built-in table of modules (`declare`), imported when one of their names is asked for,
- the decorator `register`, at import of the file that uses it,
- an installed package's entry points, likewise imported when asked for.
"""

from __future__ import annotations

import fnmatch
import functools
import importlib
import inspect
import re
import sys
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, TypeVar

from registry.errors import UsageError, reason, suggest

Factory = TypeVar("Factory", bound=Callable[..., Any])


def key(name: str) -> str:
    """What is compared between names: letters and digits, so that `DiT-XL/2` equals `dit-xl-2`."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


@dataclass
class Entry:
    """One name: where it comes from and, once imported, the factory behind it."""

    name: str
    module: str  # where its code lives
    package: str = ""  # the installed distribution that announced it, if one did
    aliases: tuple[str, ...] = ()
    factory: Callable[..., Any] | None = None
    load: Callable[[], Any] | None = None  # imports the code of a name not imported yet

    @property
    def origin(self) -> str:
        """Who defines it, for messages and `bench list`."""
        return f"package {self.package}" if self.package else self.module

    def announces(self, other: Entry) -> bool:
        """Whether `other` is what importing this entry was expected to register."""
        return self.factory is None and self.module.split(".")[0] == other.module.split(".")[0]


@dataclass(frozen=True)
class Option:
    """One override that a factory takes: its type as text and its default."""

    type: str
    default: Any


@dataclass(frozen=True)
class Description:
    """What `describe` tells of a name."""

    name: str
    aliases: tuple[str, ...]
    origin: str
    summary: str
    options: dict[str, Option] = field(default_factory=dict)


class Registry:
    """Names to factories of one kind of thing.

    Args:
        kind: what is registered, for messages ("backbone").
        group: the entry-point group through which installed packages add names.
        argument: what an argument of its factories is called, for messages.
    """

    def __init__(self, kind: str, group: str, argument: str = "option") -> None:
        self.kind, self.group, self.argument = kind, group, argument
        self._entries: dict[str, Entry] = {}  # by key of the name and of each alias
        self._clashes: dict[str, str] = {}  # key -> message, raised when that name is asked for

    # ---- adding names ----

    def declare(
        self, module: str, names: Iterable[str], aliases: Mapping[str, Iterable[str]] | None = None
    ) -> None:
        """Announce names, and aliases of some of them, that importing `module` will register."""
        load = functools.partial(importlib.import_module, module)
        for name in names:
            self._add(Entry(name, module, aliases=tuple((aliases or {}).get(name, ())), load=load))

    def register(
        self, name: str, *, aliases: Iterable[str] = (), **defaults: Any
    ) -> Callable[[Factory], Factory]:
        """Decorator: put a class or function under `name`, with some arguments' defaults replaced.

        Raises:
            UsageError: the name or an alias is taken by something else.

        Example:
            >>> @register("my-net")
            ... class MyNet(Backbone): ...
        """

        # Where the name is registered, which may be another package than the class comes from.
        module = sys._getframe(1).f_globals.get("__name__", "")

        def add(factory: Factory) -> Factory:
            made = functools.partial(factory, **defaults) if defaults else factory
            self._add(Entry(name, module, aliases=tuple(aliases), factory=made))
            return factory

        return add

    def _add(self, entry: Entry) -> None:
        for text in (entry.name, *entry.aliases):
            if not key(text):
                raise UsageError(f"a {self.kind} needs a name of letters and digits, not {text!r}")
            old = self._entries.get(key(text))
            if old and not (old.announces(entry) or _redefined(old, entry)):
                raise UsageError(
                    f"the {self.kind} name {text!r} of {entry.origin} is already taken: "
                    f"{old.name!r} of {old.origin}. Choose another name."
                )
            if old and old.package:
                entry.package = old.package
        new = {key(text): entry for text in (entry.name, *entry.aliases)}
        replaced = self._entries.get(key(entry.name))
        for stale in [k for k, old in self._entries.items() if old is replaced and k not in new]:
            del self._entries[stale]  # an alias that the new definition no longer has
        self._entries.update(new)

    @functools.cached_property
    def _installed(self) -> dict[str, Entry]:
        """All names, those of installed packages included; nothing is imported for it."""
        from importlib.metadata import entry_points

        for point in entry_points(group=self.group):
            owner = point.dist.name if point.dist else point.value
            entry = Entry(point.name, point.module, owner, load=point.load)
            old = self._entries.get(key(point.name))
            if old and old.factory and entry.announces(old):
                continue  # its module was imported by hand and has registered itself already
            if old:
                # A clash must not disable every other name: it is an error when this one is used.
                self._clashes[key(point.name)] = (
                    f"two {self.kind}s are named {point.name!r}: that of {old.origin} and that of "
                    f"{entry.origin}. Rename the entry point or uninstall the package."
                )
            else:
                self._entries[key(point.name)] = entry
        return self._entries

    # ---- asking ----

    def names(self, pattern: str = "*") -> list[str]:
        """Names that match a wildcard pattern (case forgiven), in order of registration."""
        known = list(dict.fromkeys(entry.name for entry in self._installed.values()))
        exact = [name for name in known if fnmatch.fnmatch(name.lower(), pattern.lower())]
        if exact:
            return exact
        loose = re.sub(r"[^a-z0-9*?]", "", pattern.lower())
        return [name for name in known if fnmatch.fnmatch(key(name), loose)]

    def find(self, name: str) -> Entry:
        """The entry for a name or alias, case and separators forgiven.

        Raises:
            UsageError: no such name (with suggestions), or two packages claim it.
        """
        entry = self._installed.get(key(name))
        if entry is None:
            known = self.names()
            all_of_them = f"`bench list` shows all {len(known)}." if len(known) > 12 else ""
            raise UsageError(
                f"unknown {self.kind} {name!r}.{suggest(name, known)} "
                + (all_of_them or f"It is one of {', '.join(known)}.")
            )
        if key(name) in self._clashes:
            raise UsageError(self._clashes[key(name)])
        return entry

    def factory(self, name: str) -> Callable[..., Any]:
        """The callable behind a name, imported now if it was not before.

        Raises:
            UsageError: unknown name, or its code cannot be imported or does not register it.
        """
        entry = self.find(name)
        if entry.factory is None:
            assert entry.load is not None
            try:
                loaded = entry.load()
            except Exception as error:
                raise UsageError(
                    f"{self.kind} {entry.name!r} of {entry.origin} cannot be imported: {reason(error)}"
                ) from error
            # A module registers its names by the decorator; anything else is the factory itself.
            if callable(loaded) and not isinstance(loaded, ModuleType):
                entry.factory = loaded
            entry = self._entries[key(name)]
            if entry.factory is None:
                raise UsageError(f"{entry.origin} was imported but registers no {self.kind} {entry.name!r}")
        return entry.factory

    def options(self, name: str) -> dict[str, inspect.Parameter]:
        """The keyword arguments of a factory, those of `**kwargs` excluded."""
        parameters = inspect.signature(self.factory(name)).parameters.values()
        return {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}

    def describe(self, name: str) -> Description:
        """Name, aliases, origin, first line of the docstring, and every override with its default."""
        factory = self.factory(name)
        entry = self.find(name)
        source = _source(factory)
        hints = _hints(source)
        options = {
            p.name: Option(
                _type_text(hints.get(p.name, p.annotation)), None if p.default is p.empty else p.default
            )
            for p in self.options(name).values()
        }
        # Its own docstring: `inspect.getdoc` would tell a base class's where there is none.
        summary = inspect.cleandoc(source.__doc__ or "").partition("\n")[0]
        return Description(entry.name, entry.aliases, entry.origin, summary, options)

    def check(self, name: str, overrides: dict[str, Any]) -> dict[str, Any]:
        """The overrides with their values converted to the annotated types.

        Raises:
            UsageError: an override that the factory does not take or does not do without, or a value
                of a wrong type.
        """
        factory, options = self.factory(name), self.options(name)
        title = self.find(name).name
        needed = [p.name for p in options.values() if p.default is p.empty and p.name not in overrides]
        if needed:
            raise UsageError(f"{self.kind} {title!r} needs a value for {', '.join(needed)}")
        free = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(factory).parameters.values())
        hints = _hints(_source(factory))
        checked = {}
        for option, value in overrides.items():
            if option not in options and not free:
                raise UsageError(
                    f"{self.kind} {title!r} takes no {self.argument} {option!r}."
                    f"{suggest(option, list(options))} It takes: {', '.join(options)}."
                )
            checked[option] = value
            if option in hints:
                checked[option] = _convert(f"{title}: {self.argument} {option}", value, hints[option])
        return checked


def _redefined(old: Entry, new: Entry) -> bool:
    """Whether `new` is the same definition executed again (a reloaded module), not a second one."""
    if not (old.factory and new.factory) or (old.module, old.name) != (new.module, new.name):
        return False
    before, after = _source(old.factory), _source(new.factory)
    if before is after:  # one class twice: with other defaults it is another network
        return getattr(old.factory, "keywords", {}) == getattr(new.factory, "keywords", {})
    return getattr(before, "__qualname__", before) == getattr(after, "__qualname__", after)


def _source(factory: Callable[..., Any]) -> Callable[..., Any]:
    """The class or function itself, where `register` wrapped it to change defaults."""
    return factory.func if isinstance(factory, functools.partial) else factory


def _hints(source: Callable[..., Any]) -> dict[str, Any]:
    """Resolved annotations of a factory's arguments; those that cannot be resolved are left out."""
    try:
        return typing.get_type_hints(source.__init__ if inspect.isclass(source) else source)
    except Exception:  # an annotation that names something unimportable at run time checks nothing
        return {}


def _type_text(hint: Any) -> str:
    """A type as a user would write it: `int | tuple[int, int]`, `'full' | 'downsampled'`."""
    if hint is inspect.Parameter.empty:
        return ""
    if typing.get_origin(hint) is typing.Literal:
        return " | ".join(map(repr, typing.get_args(hint)))
    if isinstance(hint, type) and not typing.get_args(hint):
        return hint.__name__
    return str(hint).replace("typing.", "")


def _convert(what: str, value: Any, hint: Any) -> Any:
    from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

    try:
        adapter: TypeAdapter[Any] = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
        return adapter.validate_python(value)
    except PydanticUserError:  # a type that pydantic has no schema for checks nothing
        return value
    except ValidationError:
        choices = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
        raise UsageError(
            f"{what} must be {_type_text(hint)}, not {value!r}."
            + suggest(str(value), [str(choice) for choice in choices])
        ) from None
