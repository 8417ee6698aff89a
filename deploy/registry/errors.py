"""Why a registry refuses, and that it is away."""

from collections.abc import Sequence


class RegistryError(Exception):
    """The registry refused: the message says what was wrong with which file or version."""


class UnknownVersion(RegistryError, LookupError):
    """No such version here, or its files were collected; the message says which."""


class Collected(UnknownVersion):
    """A version's files were deleted, because nothing needed them any more. Its manifest is left."""

    def __init__(self, version: str, where: str) -> None:
        super().__init__(
            f"{version} was collected from {where}: nothing needed it any more, and only its manifest is left"
        )


class RegistryAway(Exception):
    """The registry does not answer, or lets nobody in: nothing is known of a version. Ask again later.

    No `RegistryError`: a version is never refused for this.
    """


def unknown(version: str, where: str, known: Sequence[str]) -> UnknownVersion:
    """That there is no such version in a registry."""
    return UnknownVersion(f"no version {version!r} in {where}; known: {', '.join(known) or 'none'}")
