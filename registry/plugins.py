"""The plugin registry: names, the classes and functions behind them, and their options.

`Registry` is generic: it serves backbones here, and datasets, extractors, objectives, samplers and others in
`bench`. Names are known before their code is imported, so that listing and describing them is fast. They come
from

- the modules of a package: their source is read, and they are imported when a name is used,
- the decorator `register`, when the file that uses it is imported (`load_file`),
- entry points of installed packages, which are imported when a name is used.
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

PRIVATE = "bench_plugin_"  # prefix of the name under which a plugin file is imported
Factory = TypeVar("Factory", bound=Callable[..., Any])


def key(name: str) -> str:
    """The part of a name that is compared: lower-case letters and digits, so `DiT-XL/2` equals `dit-xl-2`."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


@dataclass
class Entry:
    """A registered name: its origin and, once imported, the factory behind it."""

    name: str
    module: str  # the module of its code
    package: str = ""  # the installed distribution that declares it as an entry point, if any
    aliases: tuple[str, ...] = ()
    factory: Callable[..., Any] | None = None
    load: Callable[[], Any] | None = None  # imports the code, if it is not imported yet
    registration: Registration | None = None  # the statement in its source
    fingerprint: str = ""  # of the code at its registration

    @property
    def origin(self) -> str:
        """The package, module or file that defines it, for messages and `bench list`."""
        if self.package:
            return f"package {self.package}"
        file = self.module.startswith(PRIVATE) and getattr(sys.modules.get(self.module), "__file__", None)
        return Path(file).name if file else self.module

    def announces(self, other: Entry) -> bool:
        """Whether `other` is what importing this entry is expected to register."""
        return self.factory is None and self.module.split(".")[0] == other.module.split(".")[0]


@dataclass(frozen=True)
class Option:
    """One argument of a factory: its type as text, and its default unless it is required."""

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
    """Maps names to factories of one kind, such as backbones.

    Args:
        kind: the kind, for messages ("backbone"). Installed packages add names by entry points of the group
            "bench.{kind}s".
        package: the package whose modules register names, if any. Their source is read when a name is first
            needed, and nothing is imported. Names are found in statements `register("name",
            aliases=["alias"], argument=default, **CONSTANT)(Target)` at the top level of a module, and in
            decorators of the same form. Names and aliases must be literals.
        base: the class, as "module.Class", whose attributes are the defaults.
        largest: largest allowed value of an integer argument.
    """

    def __init__(self, kind: str, package: str = "", base: str = "", largest: int = 2**63 - 1) -> None:
        self.kind, self.base, self.largest = kind, base, largest
        self.version = 0  # increases with each added name, so that caches of all names can be invalidated
        self._entries: dict[str, Entry] = {}  # by the key of the name and of each alias
        self._clashes: dict[str, str] = {}  # key -> message of the error raised when that name is used
        self._package = package  # empty once it was searched for names

    # ---- adding names ----

    def _search(self) -> None:
        package, self._package = self._package, ""
        for found in source.registrations(package, self.kind) if package else ():
            module = found.source.name
            load = functools.partial(importlib.import_module, module)
            self._add(Entry(found.name, module, aliases=found.aliases, load=load, registration=found))

    def register(
        self, name: str, *, aliases: Iterable[str] = (), **defaults: Any
    ) -> Callable[[Factory], Factory]:
        """Decorator: register a class or function under `name`, with new defaults for some arguments.

        Raises:
            UsageError: the name or an alias is taken by something else.

        Example:
            >>> @register("my-net")
            ... class MyNet(Backbone): ...
        """
        self._search()
        # The module that registers the name, which may differ from the module of the class.
        module = sys._getframe(1).f_globals.get("__name__", "")

        def add(factory: Factory) -> Factory:
            made = functools.partial(factory, **defaults) if defaults else factory
            entry = Entry(name, module, aliases=tuple(aliases), factory=made)
            if module.partition(".")[0] not in ("bench", "registry"):
                errors.plugin_packages.add(module.partition(".")[0])
                entry.fingerprint = _fingerprint(made)  # now: the file may change while the program runs
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
            del self._entries[stale]  # an alias that the new definition does not have
        self._entries.update(new)
        self.version += 1

    @functools.cached_property
    def _installed(self) -> dict[str, Entry]:
        """All entries, including those of installed packages; nothing is imported."""
        from importlib.metadata import entry_points

        self._search()
        for point in entry_points(group=f"bench.{self.kind}s"):
            owner = point.dist.name if point.dist else point.value
            entry = Entry(point.name, point.module, owner, load=functools.partial(_load, point))
            old = self._entries.get(key(point.name))
            if old and old.factory and entry.announces(old):
                continue  # its module was already imported and has registered itself
            if old:
                # A clash is an error only when this name is used, so that other names keep working.
                self._clashes[key(point.name)] = (
                    f"two {self.kind}s are named {point.name!r}: that of {old.origin} and that of "
                    f"{entry.origin}. Rename the entry point or uninstall the package."
                )
            else:
                self._entries[key(point.name)] = entry
        return self._entries

    # ---- looking up names ----

    def names(self, pattern: str = "*") -> list[str]:
        """Names that match a wildcard pattern, in order of registration; case-insensitive."""
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
                + (
                    f"`bench list --kind {self.kind}` shows all {len(known)}."
                    if many
                    else f"It is one of {', '.join(known)}."
                )
                + ("" if meant else " --plugin FILE loads one of your own.")
            )
        if key(name) in self._clashes:
            raise UsageError(self._clashes[key(name)])
        return entry

    def factory(self, name: str) -> Callable[..., Any]:
        """The callable behind a name, imported if necessary. Exceptions of the imported code propagate.

        Raises:
            UsageError: unknown name, its code cannot be found, or its code does not register it.
        """
        entry = self.find(name)
        if entry.factory is None:
            assert entry.load is not None
            loaded = entry.load()
            # An entry point names a module that registers its names, or the factory itself.
            if callable(loaded) and not isinstance(loaded, ModuleType) and entry.factory is None:
                errors.plugin_packages.add(entry.module.partition(".")[0])
                entry.factory, entry.fingerprint = loaded, _fingerprint(loaded)
            entry = self._entries[key(name)]
            if entry.factory is None:
                raise UsageError(f"{entry.origin} was imported but registers no {self.kind} {entry.name!r}")
        return entry.factory

    def signature(self, name: str) -> Signature:
        """The signature of the factory of a name, read from the factory if imported, else from source."""
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
        """A class attribute of the factory of a name, else of the class `base`.

        Code is imported only if its source is not enough.

        Raises:
            AttributeError: neither class has the attribute.
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
        """12 hexadecimal digits of a hash of the code behind a name and its registered defaults.

        See `registry.fingerprints.fingerprint`. For a plugin it is the code at its registration.
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
            UsageError: an override is unknown, a required one is missing, or a value has the wrong type.
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
                    f"{self.kind} {title!r} takes no option {option!r}."
                    f"{suggest(option, list(options))} It takes: {', '.join(options) or 'none'}."
                )
            hint = options[option].annotation if option in options else inspect.Parameter.empty
            untyped = hint is inspect.Parameter.empty or isinstance(hint, str)
            checked[option] = (
                value if untyped else _convert(f"{title}: option {option}", value, hint, self.largest)
            )
        return checked


def load_file(plugin: str) -> ModuleType:
    """Import a Python file, or a module by name, so that its names are registered.

    A file is imported only once. It gets a private module name, so that a file called `random.py` replaces no
    module. It can import modules of its folder. An exception in its code propagates unchanged.

    Args:
        plugin: a path that ends in `.py`, or the name of a module.

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
    if other is not None and other.__file__ != str(path):  # a module of this name from another folder
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
    """Import a module; raise `UsageError` with the message `otherwise` if it cannot be found."""
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
        UsageError: there is no such object.
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
    """Whether `new` is the same definition executed again, as in a reloaded module."""
    if not (old.factory and new.factory) or (old.module, old.name) != (new.module, new.name):
        return False
    before, after = unwrapped(old.factory), unwrapped(new.factory)
    if before is after:  # one class registered twice; with other defaults it is another network
        return getattr(old.factory, "keywords", {}) == getattr(new.factory, "keywords", {})
    return getattr(before, "__qualname__", before) == getattr(after, "__qualname__", after)


def unwrapped(factory: Callable[..., Any]) -> Callable[..., Any]:
    """The class or function behind a factory whose defaults `register` replaced."""
    return factory.func if isinstance(factory, functools.partial) else factory


def _signature(factory: Callable[..., Any]) -> Signature:
    """`Registration.signature` of an imported factory."""
    function = unwrapped(factory)
    try:
        hints = typing.get_type_hints(function.__init__ if inspect.isclass(function) else function)
    except Exception:  # an annotation that cannot be evaluated is not checked
        hints = {}
    options, free = {}, False
    for p in inspect.signature(factory).parameters.values():
        free |= p.kind is p.VAR_KEYWORD
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY):
            hint = hints.get(p.name, p.annotation)
            options[p.name] = p.replace(kind=p.KEYWORD_ONLY, annotation=hint)
    # Its own docstring: `inspect.getdoc` would fall back to that of a base class.
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
    # Torch's own modules refer to all of torch. Reading it takes a minute, and users do not change it.
    found = source.read(module, Path(file)) if file and module.partition(".")[0] != "torch" else None
    if found:
        outer = name.partition(".")[0]
        return fingerprints.fingerprint(found, outer if outer in found.statements else "", defaults)
    try:  # code of a notebook or of torch
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
    """Checks and converts values of a type. Cached, because making one takes longer than a hundred uses."""
    try:
        return _cached_adapter(hint)
    except TypeError:  # an unhashable type
        return _cached_adapter.__wrapped__(hint)


def _convert(subject: str, value: Any, hint: Any, largest: int) -> Any:
    from pydantic import PydanticUserError, ValidationError

    problem = f"{subject} must be {_type_text(hint)}, not {_shown(value)}."
    try:
        converted = _adapter(hint).validate_python(value)
    except PydanticUserError:  # a type without a pydantic schema is not checked
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
    """A value for a message, shortened if it is long."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:100]}…"


def _truth_as_number(value: Any, converted: Any) -> bool:
    """Whether pydantic has converted true or false to a number."""
    if isinstance(value, list | tuple) and isinstance(converted, list | tuple):
        return any(map(_truth_as_number, value, converted))
    return isinstance(value, bool) and type(converted) in (int, float)


def _largest(value: Any) -> int:
    """The largest magnitude of the integers in a value."""
    if isinstance(value, list | tuple):
        return max(map(_largest, value), default=0)
    return abs(value) if type(value) is int else 0
