"""Every error that svdkit raises on purpose.

Each message says what arrived, what was expected and what to do about it, in one paragraph that can be shown
to a user as it is. `InputError` and its subclasses mean that the caller can mend the call; the command line
exits with status 2 for those and with 1 for the rest.
"""

from __future__ import annotations


class SvdkitError(Exception):
    """Base class of all errors raised by svdkit."""


class InputError(SvdkitError, ValueError):
    """A parameter, image, array or path that the caller passed cannot be used."""


class ImageError(InputError):
    """The conditioning image cannot be read or is not an image."""


class SigmasError(InputError):
    """The noise levels are not a descending list of finite, positive numbers."""


class OutputError(InputError):
    """The result cannot be written where, or in the form, that was asked for."""


class UnknownPluginError(InputError):
    """No plugin of that kind has that name."""


class MissingDependencyError(SvdkitError, ImportError):
    """A plugin was asked for whose framework is not installed."""


class DuplicatePluginError(SvdkitError):
    """Two plugins registered the same name."""


class BrokenPluginError(SvdkitError):
    """A plugin was asked for by name and cannot be imported or built."""


class PluginWarning(UserWarning):
    """A plugin was found but left out because it is broken."""


class CheckpointError(SvdkitError):
    """A checkpoint is missing, incomplete, corrupt or not one of Stable Video Diffusion."""


class WeightsError(CheckpointError):
    """Weights do not fit the architecture: keys missing, unexpected or of the wrong shape."""


class AccessError(CheckpointError):
    """The hub refused the checkpoint: it needs a licence to be accepted, or a token."""


class NumericalError(SvdkitError, ArithmeticError):
    """A NaN or an infinity appeared where finite numbers were expected."""


class OutOfMemoryError(SvdkitError, MemoryError):
    """A device's memory ran out while a stage was computed."""


class MemoryWarning(UserWarning):
    """A generation was changed so that it fits in memory, or is not expected to fit."""
