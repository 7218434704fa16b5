"""Every error this package raises on purpose. Each says what is wrong, what was found, what to do.

::

    GarEnvError
    ├── UnknownNameError            a name no registry knows (ValueError)
    ├── DuplicateNameError          a name registered twice (ValueError)
    ├── ConfigurationError          options that contradict each other or are out of range (ValueError)
    ├── MissingExtraError           an optional package is not installed (ImportError)
    ├── DeviceError                 the device is not there (RuntimeError)
    ├── DatasetNotFoundError        no data at this path (FileNotFoundError)
    ├── DatasetFormatError          the data are there, but not as they should be (ValueError)
    ├── DownloadError               the data could not be fetched (ConnectionError)
    ├── AlignmentError
    │   ├── DirectionMismatchError  a direction that does not fit the parameters (ValueError)
    │   ├── LossShapeError          losses that are not one number per example (ValueError)
    │   ├── LostGradientError       per-example entries that do not add up to the batch gradient
    │   ├── MemoryCapError          no way of recording stays below the allowed memory (MemoryError)
    │   ├── MixedExamplesError      rows of a layer that belong to several examples
    │   ├── NonFiniteGradientError  NaN or infinity in a recorded pass or a direction (ArithmeticError)
    │   ├── StaleTapeError          a tape read twice, or a recorded input that was overwritten since
    │   └── UnsupportedLayerError   a layer no rule covers and the fallback cannot replay
    ├── CheckpointError             a state that belongs to something else (ValueError)
    ├── InvalidActionError          actions of the wrong shape, type or range (ValueError)
    ├── NonFiniteObservationError   an observation feature that is NaN or infinite (ValueError)
    ├── RewardError                 a signal returned a wrong shape, or NaN while training is finite (ValueError)
    ├── DistributedError            another process died, or did not answer in time (RuntimeError)
    ├── ResetNeededError            step before reset, or after the end (gymnasium.error.ResetNeeded)
    ├── ClosedEnvironmentError      any call after close (gymnasium.error.ClosedEnvironmentError)
    └── ConformanceError            an environment that breaks the vector contract (AssertionError)
"""

from __future__ import annotations

import gymnasium


class GarEnvError(Exception):
    """Root of the tree."""


class UnknownNameError(GarEnvError, ValueError):
    """A name no registry knows."""


class DuplicateNameError(GarEnvError, ValueError):
    """A name registered twice."""


class ConfigurationError(GarEnvError, ValueError):
    """Options that contradict each other or are out of range."""


class NoRenderingError(ConfigurationError, TypeError):
    """An environment that draws nothing was asked to; a TypeError too, as Stable-Baselines3's helpers expect then."""


class MissingExtraError(GarEnvError, ImportError):
    """An optional package is not installed."""


class DeviceError(GarEnvError, RuntimeError):
    """The device is not there."""


class DatasetNotFoundError(GarEnvError, FileNotFoundError):
    """No data at this path."""


class DatasetFormatError(GarEnvError, ValueError):
    """The data are there, but not as they should be."""


class DownloadError(GarEnvError, ConnectionError):
    """The data could not be fetched."""


class AlignmentError(GarEnvError):
    """Root of what can go wrong between a tape and a direction."""


class DirectionMismatchError(AlignmentError, ValueError):
    """A direction that does not fit the parameters."""


class LossShapeError(AlignmentError, ValueError):
    """Losses that are not one number per example."""


class LostGradientError(AlignmentError):
    """Per-example entries that do not add up to the batch gradient."""


class MemoryCapError(AlignmentError, MemoryError):
    """No way of recording stays below the allowed memory."""


class MixedExamplesError(AlignmentError):
    """Rows of a layer that belong to several examples."""


class NonFiniteGradientError(AlignmentError, ArithmeticError):
    """NaN or infinity in a recorded pass or a direction.

    Args:
        parameters: The names of the parameters it was found at.
    """

    def __init__(self, parameters: tuple[str, ...]) -> None:
        names = ", ".join(parameters)
        super().__init__(
            f"The recorded gradient or the direction is NaN or infinite at {names}. Training has diverged: lower the "
            "step size, or clip. With a GradScaler, skip this step's entries as it skips the update."
        )
        self.parameters = parameters


class StaleTapeError(AlignmentError):
    """A tape that was read already, or a recorded input that was overwritten since."""


class UnsupportedLayerError(AlignmentError):
    """A layer no rule covers and the fallback cannot replay."""


class FormulaError(ConfigurationError):
    """A formula of an update rule that cannot be read."""


class UntrustedNameError(GarEnvError):
    """A name in a file would import a module."""


class CheckpointError(GarEnvError, ValueError):
    """A state that belongs to something else."""


class InvalidActionError(GarEnvError, ValueError):
    """Actions of the wrong shape, type or range."""


class NonFiniteObservationError(GarEnvError, ValueError):
    """An observation feature that is NaN or infinite."""


class RewardError(GarEnvError, ValueError):
    """A signal returned a wrong shape, or NaN while training is finite."""


class DistributedError(GarEnvError, RuntimeError):
    """Another process died, or did not answer in time."""


class ResetNeededError(GarEnvError, gymnasium.error.ResetNeeded):
    """Step before reset, or after the end of an episode that does not reset itself."""


class ClosedEnvironmentError(GarEnvError, gymnasium.error.ClosedEnvironmentError):
    """Any call after close."""


class ConformanceError(GarEnvError, AssertionError):
    """An environment that breaks the vector environment contract."""
