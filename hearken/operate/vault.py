"""`hearken vault`: what an operator does about the keys of users' texts."""

from pathlib import Path

from feedback.opening import open_vault
from feedback.privacy.vault_keys import VaultUnavailable
from hearken.base.checks import check_service
from hearken.base.errors import UsageError


def renew(data: Path) -> int:
    """Go on with the vault that is there, or a new one, and take every text without a key in it for lost."""
    check_service(data)
    vault = open_vault(data)
    try:
        vault_id = vault.give_up()
    except VaultUnavailable as error:
        raise UsageError(f"nothing was changed: {error}", code=1) from error
    finally:
        vault.close()
    print(f"{data / 'vault'} is the vault {vault_id}; texts that have no key in it count as erased")
    return 0
