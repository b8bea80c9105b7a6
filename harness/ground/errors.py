"""Errors that a person can act on: what is wrong, and what to do about it, in one sentence.

Each is one line on stderr with its exit status, never a traceback. A module's own errors, which its
callers handle, stay there.
"""

from __future__ import annotations


class LabError(Exception):
    """exit_status: of the command that it ends. final: starting the notebook again cannot help."""

    exit_status = 1
    final = True

    def _render_traceback_(self) -> list[str]:
        """What IPython shows of it: the sentence, and no lines of ours above it."""
        return [f"{type(self).__name__}: {self}"]


# --- What was asked for


class ParameterError(LabError):
    """A parameter is unknown, missing, or of the wrong type."""


class ProfileError(LabError):
    """An unknown profile, a device that cannot be asked, or an override that makes no sense."""


class DeviceRefused(ProfileError):
    """A device that is there and cannot be used as things are; the message says what to do."""


class ProgramError(LabError):
    """program.md cannot be obeyed as it stands; the message names the line and the remedy."""


class ConstantsError(LabError):
    """The constants block cannot be read, or a value cannot be written into it."""


class RulingError(LabError):
    """There is no such experiment in quarantine; the message says which there are."""


class ByHandError(LabError):
    """The file cannot be trained, or its training or scoring failed; the message says why."""


# --- What is there


class DataError(LabError):
    """The data cannot be prepared, found or trusted; the message says what to do next."""


class SettingsError(LabError):
    """A run cannot be started or continued as asked."""


class JournalError(LabError):
    """The journal cannot be read or continued."""


class ResultsError(LabError):
    """A results.tsv that cannot be read; the message names the file, the line and what to do."""


class AnalysisError(LabError):
    """There is no such run, or it cannot be read; the message says what to do."""


class PageError(LabError):
    """A notebook that cannot be turned into a page."""


class HistoryError(LabError):
    """git refused; the message is git's and what to do.

    status: git's exit status, None for a refusal of ours. final: doing the same again at once
    cannot help.
    """

    def __init__(self, message: str, status: int | None = None, final: bool = True) -> None:
        super().__init__(message)
        self.status, self.final = status, final


class WallError(LabError):
    """The wall that was asked for does not work here, or cannot hide what it should."""


class KeyFileError(LabError):
    """There is a key, and no safe way to keep it; the message says what to do."""


# --- How it goes


class LoopError(LabError):
    """The loop cannot go on; the message says what to do. The same command continues."""


class Paused(LoopError):
    """It cannot go on now, but may later by itself: a night waits and looks again."""

    exit_status = 3
    final = False


class EndedEarly(LabError):
    """A listener ends the training that it hears, for the reason given, such as that it is
    hopeless."""


class GaveUp(LoopError):
    """It paused for too long."""

    exit_status = 3


class BusyError(LabError):
    """Another process works on this run."""

    exit_status = 4
    final = False


class ProposalError(LabError):
    """The proposer made no proposal; the message says why. The same command continues."""

    final = False


class ProposerGone(LabError):
    """The proposer hung or was killed; asking again may help."""

    final = False


def kinds_of(error: type[LabError] = LabError) -> dict[str, type[LabError]]:
    """All kinds of these errors by name, as the end of a notebook names them."""
    kinds = {error.__name__: error}
    for kind in error.__subclasses__():
        kinds |= kinds_of(kind)
    return kinds
