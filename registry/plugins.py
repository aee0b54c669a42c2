"""The plugin registry: names, the classes and functions behind them, and their options.

`Registry` is generic: backbones here; datasets, extractors, objectives, samplers in `bench`. Names are known
before their code is imported, so listing and describing them is fast. A name comes from

- the modules of a package (`discover`), whose source is read and which are imported when one is made,
- the decorator `register`, at import of the file that uses it (`load_file` imports one),
- an installed package's entry points, imported when a name of theirs is used.
"""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from registry import errors, fingerprints, source
from registry.errors import UsageError, suggest
from registry.source import Registration, Signature, UnreadableError
from registry.values import plain

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from pydantic import TypeAdapter

PRIVATE = "bench_plugin_"  # begins the name under which a plugin's file is imported
Factory = TypeVar("Factory", bound=Callable[..., Any])


def key(name: str) -> str:
    """The part of a name that is compared: letters and digits, so `DiT-XL/2` equals `dit-xl-2`."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


@dataclass
class Entry:
    """A registered name: its origin and, once imported, the factory behind it."""

    name: str
    module: str  # where its code lives
    package: str = ""  # the installed distribution that announced it, if one did
    aliases: tuple[str, ...] = ()
    factory: Callable[..., Any] | None = None
    load: Callable[[], Any] | None = None  # imports the code of a name not imported yet
    registration: Registration | None = None  # as its source has it
    fingerprint: str = ""  # of the code as it was when it was registered

    @property
    def origin(self) -> str:
        """Package, module or file that defines it, for messages and `bench list`."""
        if self.package:
            return f"package {self.package}"
        file = self.module.startswith(PRIVATE) and getattr(sys.modules.get(self.module), "__file__", None)
        return Path(file).name if file else self.module

    def announces(self, other: Entry) -> bool:
        """Whether `other` is what importing this entry was expected to register."""
        return self.factory is None and self.module.split(".")[0] == other.module.split(".")[0]


@dataclass(frozen=True)
class Option:
    """One argument of a factory: its type as text, and its default if it needs no value."""

    type: str
    default: Any = None
    required: bool = False


@dataclass(frozen=True)
class Description:
    """What `describe` returns."""

    name: str
    aliases: tuple[str, ...]
    origin: str
    summary: str
    paper: str = ""
    options: dict[str, Option] = field(default_factory=dict)


class Registry:
    """Names to factories of one kind of thing.

    Args:
        kind: kind of thing that is registered, for messages ("backbone").
        group: the entry-point group through which installed packages add names.
        argument: what an argument of its factories is called, for messages.
        base: the class, as "module.Class", whose attributes are the defaults.
        largest: largest value of an integer argument.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        argument: str = "option",
        base: str = "",
        largest: int = 2**63 - 1,
    ) -> None:
        self.kind, self.group, self.argument, self.base = kind, group, argument, base
        self.largest = largest
        self.version = 0  # raised by each name that is added, for those who keep what they made of all
        self._entries: dict[str, Entry] = {}  # by key of the name and of each alias
        self._clashes: dict[str, str] = {}  # key -> message, raised when that name is used
        self._packages: list[str] = []  # to be searched for names

    # ---- adding names ----

    def discover(self, package: str) -> None:
        """Add the names that the modules of a package register, without importing them.

        Their source is read when a name is first needed: statements `register("name", aliases=["alias"],
        argument=default, **CONSTANT)(Target)` at the top of a module, or such decorators, with literal names.
        """
        self._packages.append(package)

    def _search(self) -> None:
        while self._packages:
            for found in source.registrations(self._packages.pop(0), self.kind):
                module = found.source.name
                load = functools.partial(importlib.import_module, module)
                self._add(Entry(found.name, module, aliases=found.aliases, load=load, registration=found))

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
        self._search()
        # Where the name is registered, which may be another package than the class comes from.
        module = sys._getframe(1).f_globals.get("__name__", "")

        def add(factory: Factory) -> Factory:
            made = functools.partial(factory, **defaults) if defaults else factory
            entry = Entry(name, module, aliases=tuple(aliases), factory=made)
            if module.partition(".")[0] not in ("bench", "registry"):
                errors.plugin_packages.add(module.partition(".")[0])
                entry.fingerprint = _fingerprint(made)  # now: the file may be edited while this runs
            self._add(entry)
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
        self.version += 1

    @functools.cached_property
    def _installed(self) -> dict[str, Entry]:
        """All names, those of installed packages included; nothing is imported for it."""
        from importlib.metadata import entry_points

        self._search()
        for point in entry_points(group=self.group):
            owner = point.dist.name if point.dist else point.value
            entry = Entry(point.name, point.module, owner, load=functools.partial(_load, point))
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
        """Names that match a wildcard pattern (case-insensitive), in order of registration."""
        known = list(dict.fromkeys(entry.name for entry in self._installed.values()))
        if pattern == "*":
            return known
        exact = [name for name in known if fnmatch.fnmatch(name.lower(), pattern.lower())]
        if exact:
            return exact
        loose = re.sub(r"[^a-z0-9*?]", "", pattern.lower())
        return [name for name in known if fnmatch.fnmatch(key(name), loose)]

    def find(self, name: str) -> Entry:
        """The entry for a name or alias; case and separators are ignored.

        Raises:
            UsageError: no such name (with suggestions), or two packages claim it.
        """
        entry = self._installed.get(key(name))
        if entry is None:
            known = self.names()
            meant, many = suggest(name, known), len(known) > 12
            raise UsageError(
                f"unknown {self.kind} {name!r}.{meant} "
                + (f"`bench list` shows all {len(known)}." if many else f"It is one of {', '.join(known)}.")
                + ("" if meant else " One of your own comes with --plugin FILE.")
            )
        if key(name) in self._clashes:
            raise UsageError(self._clashes[key(name)])
        return entry

    def factory(self, name: str) -> Callable[..., Any]:
        """The callable behind a name, imported now if it was not before.

        Exceptions of the imported code are passed on.

        Raises:
            UsageError: unknown name, or its code is not there or does not register it.
        """
        entry = self.find(name)
        if entry.factory is None:
            assert entry.load is not None
            loaded = entry.load()
            # A module registers its names by the decorator; anything else is the factory itself.
            if callable(loaded) and not isinstance(loaded, ModuleType) and entry.factory is None:
                errors.plugin_packages.add(entry.module.partition(".")[0])
                entry.factory, entry.fingerprint = loaded, _fingerprint(loaded)
            entry = self._entries[key(name)]
            if entry.factory is None:
                raise UsageError(f"{entry.origin} was imported but registers no {self.kind} {entry.name!r}")
        return entry.factory

    def signature(self, name: str) -> Signature:
        """The signature of the factory of a name, read from source, or from the factory once it is
        imported."""
        entry = self.find(name)
        if entry.factory is None and entry.registration:
            try:
                return entry.registration.signature
            except UnreadableError:
                pass
        return _signature(self.factory(name))

    def options(self, name: str) -> dict[str, inspect.Parameter]:
        """The keyword arguments of a factory, those of `**kwargs` excluded."""
        return self.signature(name).options

    def attribute(self, name: str, attribute: str) -> Any:
        """A class attribute of the factory of a name, or else of the class `base`; imports only what it must.

        Raises:
            AttributeError: neither has it.
        """
        entry = self.find(name)
        try:
            if entry.factory is None and entry.registration:
                try:
                    return entry.registration.attribute(attribute)
                except UnreadableError:
                    pass
            return getattr(unwrapped(self.factory(name)), attribute)
        except AttributeError:
            module, _, base = self.base.rpartition(".")
            found = source.read(module, source.file(source.ROOT, module)) if base else None
            if found is None:
                raise
            return Registration(name, (), found, base).attribute(attribute)

    def fingerprint(self, name: str) -> str:
        """12 hexadecimal digits of a hash of the code behind a name and its registered defaults; see
        `registry.fingerprints.fingerprint`. For a plugin, of the code at its registration.
        """
        entry = self.find(name)
        if entry.factory is None and entry.registration:
            registration = entry.registration
            found, definition = registration.source.definition(registration.target)
            return fingerprints.fingerprint(found, definition.name, _texts(registration.defaults))
        factory = self.factory(name)
        return self.find(name).fingerprint or _fingerprint(factory)

    def describe(self, name: str) -> Description:
        """Name, aliases, origin, first line of the docstring, paper, and every option with its default."""
        signature, entry = self.signature(name), self.find(name)
        options = {
            p.name: Option(_type_text(p.annotation), required=True)
            if p.default is p.empty
            else Option(_type_text(p.annotation), p.default)
            for p in signature.options.values()
        }
        return Description(
            entry.name, entry.aliases, entry.origin, signature.summary, signature.paper, options
        )

    def check(self, name: str, overrides: dict[str, Any]) -> dict[str, Any]:
        """Overrides with their values converted to the annotated types.

        Raises:
            UsageError: an unknown override, a required one that is missing, or a value of a wrong type.
        """
        signature, title = self.signature(name), self.find(name).name
        options = signature.options
        needed = [p.name for p in options.values() if p.default is p.empty and p.name not in overrides]
        if needed:
            raise UsageError(f"{self.kind} {title!r} needs a value for {', '.join(needed)}")
        checked = {}
        for option, value in overrides.items():
            if option not in options and not signature.free:
                raise UsageError(
                    f"{self.kind} {title!r} takes no {self.argument} {option!r}."
                    f"{suggest(option, list(options))} It takes: {', '.join(options) or 'none'}."
                )
            hint = options[option].annotation if option in options else inspect.Parameter.empty
            untyped = hint is inspect.Parameter.empty or isinstance(hint, str)
            checked[option] = (
                value
                if untyped
                else _convert(f"{title}: {self.argument} {option}", value, hint, self.largest)
            )
        return checked


def load_file(plugin: str) -> ModuleType:
    """Import a Python file or a module by name, so that its names are registered.

    A file is imported under a private name, so that one called `random.py` replaces no module, and once only;
    modules beside it can be imported by it. An exception in its code propagates as it is.

    Args:
        plugin: a path that ends in `.py`, or a module's name.

    Raises:
        UsageError: there is no such file or module.
    """
    if not plugin.endswith(".py"):
        return _import(plugin, f"no such plugin module: {plugin}")
    path = Path(plugin).resolve()
    if not path.is_file():
        raise UsageError(f"no such plugin file: {plugin}")
    name = PRIVATE + re.sub(r"\W", "_", path.stem)
    other = sys.modules.get(name)
    if other is not None and other.__file__ != str(path):  # of another folder
        name += f"_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _import(module: str, otherwise: str) -> ModuleType:
    """Import a module; `UsageError` with the message `otherwise` where it is not there."""
    if not all(part.isidentifier() for part in module.split(".")):
        raise UsageError(otherwise)
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            raise UsageError(otherwise) from None
        raise


def _load(point: EntryPoint) -> Any:
    """The object that an entry point names.

    Raises:
        UsageError: it is not there.
    """
    owner = f"package {point.dist.name} announces" if point.dist else "an entry point announces"
    loaded: Any = _import(
        point.module, f"{owner} {point.value!r}, but there is no module {point.module!r}: reinstall it"
    )
    for part in filter(None, (point.attr or "").split(".")):
        if not hasattr(loaded, part):
            raise UsageError(f"{owner} {point.value!r}, but {point.module!r} has no {point.attr!r}")
        loaded = getattr(loaded, part)
    return loaded


def _redefined(old: Entry, new: Entry) -> bool:
    """Whether `new` is the same definition executed again (a reloaded module), not a second one."""
    if not (old.factory and new.factory) or (old.module, old.name) != (new.module, new.name):
        return False
    before, after = unwrapped(old.factory), unwrapped(new.factory)
    if before is after:  # one class twice: with other defaults it is another network
        return getattr(old.factory, "keywords", {}) == getattr(new.factory, "keywords", {})
    return getattr(before, "__qualname__", before) == getattr(after, "__qualname__", after)


def unwrapped(factory: Callable[..., Any]) -> Callable[..., Any]:
    """The class or function itself behind a factory, where `register` changed its defaults."""
    return factory.func if isinstance(factory, functools.partial) else factory


def _signature(factory: Callable[..., Any]) -> Signature:
    """`Registration.signature` of an imported factory."""
    function = unwrapped(factory)
    try:
        hints = typing.get_type_hints(function.__init__ if inspect.isclass(function) else function)
    except Exception:  # an annotation that names something unimportable at run time checks nothing
        hints = {}
    options, free = {}, False
    for p in inspect.signature(factory).parameters.values():
        free |= p.kind is p.VAR_KEYWORD
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY):
            hint = hints.get(p.name, p.annotation)
            options[p.name] = p.replace(kind=p.KEYWORD_ONLY, annotation=hint)
    # Its own docstring: `inspect.getdoc` would give a base class's where there is none.
    summary = inspect.cleandoc(function.__doc__ or "").partition("\n")[0]
    module = sys.modules.get(getattr(function, "__module__", ""))
    return Signature(options, free, summary, source.paper(function.__doc__, getattr(module, "__doc__", "")))


def _fingerprint(factory: Callable[..., Any]) -> str:
    """`Registry.fingerprint` of an imported factory."""
    function = unwrapped(factory)
    defaults = _texts(factory.keywords if isinstance(factory, functools.partial) else {})
    name = getattr(function, "__qualname__", type(function).__qualname__)
    module = getattr(function, "__module__", None) or type(function).__module__
    file = getattr(sys.modules.get(module), "__file__", None)
    # Torch's own modules refer to all of torch: a minute's reading, for what is no user's to change.
    found = source.read(module, Path(file)) if file and module.partition(".")[0] != "torch" else None
    if found:
        outer = name.partition(".")[0]
        return fingerprints.fingerprint(found, outer if outer in found.statements else "", defaults)
    try:  # a notebook's cell, or torch's
        text = inspect.getsource(function)
    except (OSError, TypeError):
        text = name
    return hashlib.sha256("\n".join([text, *defaults]).encode()).hexdigest()[:12]


def _texts(defaults: dict[str, Any]) -> list[str]:
    return [f"{name}={plain(value)!r}" for name, value in sorted(defaults.items())]


def _type_text(hint: Any) -> str:
    """A type as a user would write it: `int | tuple[int, int]`, `'full' | 'downsampled'`."""
    if hint is inspect.Parameter.empty:
        return ""
    if isinstance(hint, str):
        return hint
    if typing.get_origin(hint) is typing.Literal:
        return " | ".join(map(repr, typing.get_args(hint)))
    if isinstance(hint, type) and not typing.get_args(hint):
        return hint.__name__
    return str(hint).replace("typing.", "")


@functools.cache
def _cached_adapter(hint: Any) -> TypeAdapter[Any]:
    from pydantic import ConfigDict, TypeAdapter

    return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))


def _adapter(hint: Any) -> TypeAdapter[Any]:
    """What checks and converts values of a type; making one takes longer than a hundred uses."""
    try:
        return _cached_adapter(hint)
    except TypeError:  # a type that cannot be hashed
        return _cached_adapter.__wrapped__(hint)


def _convert(subject: str, value: Any, hint: Any, largest: int) -> Any:
    from pydantic import PydanticUserError, ValidationError

    problem = f"{subject} must be {_type_text(hint)}, not {_shown(value)}."
    try:
        converted = _adapter(hint).validate_python(value)
    except PydanticUserError:  # a type that pydantic has no schema for checks nothing
        return value
    except ValidationError:
        choices = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
        raise UsageError(problem + suggest(str(value), [str(choice) for choice in choices])) from None
    if _truth_as_number(value, converted):
        raise UsageError(problem)
    if (found := _largest(converted)) > largest:
        raise UsageError(f"{subject} must be at most {largest:,}, not {_shown(found)}")
    return converted


def _shown(value: Any) -> str:
    """A value in a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:100]}…"


def _truth_as_number(value: Any, converted: Any) -> bool:
    """Whether true or false became a number, as pydantic has it."""
    if isinstance(value, list | tuple) and isinstance(converted, list | tuple):
        return any(map(_truth_as_number, value, converted))
    return isinstance(value, bool) and type(converted) in (int, float)


def _largest(value: Any) -> int:
    """The largest magnitude of the integers in a value."""
    if isinstance(value, list | tuple):
        return max(map(_largest, value), default=0)
    return abs(value) if type(value) is int else 0
