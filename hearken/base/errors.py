"""The one error of the command line that a user can cause, and so can mend."""


class UsageError(Exception):
    """Says in one line what was wrong and what would be right. `code` is the exit code of `hearken`.

    2: asked wrongly, nothing was started. 1: something that was running failed.
    """

    def __init__(self, message: str, code: int = 2) -> None:
        super().__init__(message)
        self.code = code
