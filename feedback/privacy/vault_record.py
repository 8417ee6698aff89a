"""Record in a data folder of the vault that it was used with: the vault's id, in a file of its own."""

from pathlib import Path

from feedback.core.files import write_once


class Record:
    """The file, whether or not it is there. path: None remembers nothing."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._written = False

    def __str__(self) -> str:
        return str(self._path.parent) if self._path else "this service"

    def read(self) -> str | None:
        """The id of the vault that was used, None before there was one."""
        if self._path is None:
            return None
        try:
            return self._path.read_text().strip()
        except FileNotFoundError:
            return None

    def remember(self, vault_id: str) -> None:
        """Keep the id durably, unless one is kept already."""
        if self._path is not None and not self._written:
            if not self._path.exists():
                write_once(self._path, f"{vault_id}\n".encode())
            self._written = True

    def look_again(self) -> None:
        """Take nothing for written: the vault may be another one."""
        self._written = False

    def forget(self) -> None:
        """Remember nothing, so that any vault is the right one."""
        self._written = False
        if self._path is not None:
            self._path.unlink(missing_ok=True)
