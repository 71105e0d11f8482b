"""Documented shapes and types are checked as every function of medrep is called, and in as little time as that takes.

jaxtyping's own decorator checks the arguments of each call and then its result in two further calls, and binds the arguments
to the signature before: half of the processor time of the tests. One call of beartype does for both, within a context of
jaxtyping only where a shape is documented.
"""

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray, TypeCheckError, install_import_hook, jaxtyped

_check_types = beartype(conf=BeartypeConf(violation_type=TypeCheckError))


def check_documented_shapes(package: str) -> None:
    """Check all that is imported of a package from now on."""
    jaxtyping.jaxtyped = lambda *, typechecker: _checked_if_lasting  # what the hook decorates everything with
    install_import_hook(package, "beartype.beartype")


def _checked_if_lasting(thing: Any) -> Any:
    """Leave a function within a function alone: each call makes it anew, and its checks would take longer than it does."""
    return thing if "<locals>" in getattr(thing, "__qualname__", "") else _checked(thing)


def _checked(thing: Any) -> Any:
    if inspect.isclass(thing):
        if dataclasses.is_dataclass(thing):
            thing.__init__ = _checked(thing.__init__)
        return thing
    if isinstance(thing, classmethod | staticmethod):
        return type(thing)(_checked(thing.__func__))
    if isinstance(thing, property):
        return property(*(each and _checked(each) for each in (thing.fget, thing.fset, thing.fdel)))
    if not inspect.isfunction(thing) or hasattr(thing, "__wrapped__"):
        return thing
    if inspect.isgeneratorfunction(thing):
        return _generator(_with_known_hints(thing))
    return _at_first_call(thing)


def _at_first_call(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile the checks of a function as it is called first; most functions are called by few tests' processes."""
    checked: Callable[..., Any] | None = None

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal checked
        if checked is None:
            compiled = _check_types(_with_known_hints(function))
            checked = _in_context(compiled) if _documents_shapes(function) else compiled
        return checked(*args, **kwargs)

    return call


def _with_known_hints(function: Callable[..., Any]) -> Callable[..., Any]:
    function.__annotations__ = {
        name: hint for name, hint in function.__annotations__.items() if _is_known(hint, function)
    }
    return function


def _generator(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check arrays as a generator is made: later it would be in the context of whoever goes through it."""
    signature = inspect.signature(function)
    shapes = {
        name: hint
        for name, hint in function.__annotations__.items()
        if inspect.isclass(hint) and issubclass(hint, AbstractArray)
    }

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        with jaxtyped("context"):
            for name, hint in shapes.items():
                if name in given and not isinstance(given[name], hint):
                    raise TypeCheckError(f"{function.__qualname__}: {name} is no {hint}: {given[name]!r}")
        return function(*args, **kwargs)

    return call


def _is_known(hint: Any, function: Callable[..., Any]) -> bool:
    """Whether what a hint names can be had while the program runs, and not only by mypy."""

    def holder() -> None: ...

    holder.__annotations__ = {"hint": hint}
    try:
        typing.get_type_hints(holder, function.__globals__)
    except (NameError, TypeError):
        return False
    return True


def _in_context(checked: Callable[..., Any]) -> Callable[..., Any]:
    """Let axes of one name have one length within a call."""

    @functools.wraps(checked)
    def call(*args: Any, **kwargs: Any) -> Any:
        with jaxtyped("context"):
            return checked(*args, **kwargs)

    return call


def _documents_shapes(function: Callable[..., Any]) -> bool:
    return any(_has_shape(hint) for hint in function.__annotations__.values())


def _has_shape(hint: Any) -> bool:
    if isinstance(hint, str):
        return "[" in hint
    return (inspect.isclass(hint) and issubclass(hint, AbstractArray)) or any(map(_has_shape, typing.get_args(hint)))
