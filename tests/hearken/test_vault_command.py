"""`hearken vault renew` gives up what has no key, and only where there is a service."""

from pathlib import Path

import pytest

from feedback.opening import open_sealer
from feedback.privacy.vault_keys import VaultLost
from hearken.cli import main
from tests.feedback.examples import completion


def test_renewing_lets_a_service_go_on_without_its_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sealer = open_sealer(tmp_path)
    sealed = sealer.seal(completion("c0"))
    (tmp_path / "vault").rename(tmp_path / "lost")
    with pytest.raises(VaultLost, match="hearken vault renew"):
        sealer.open(sealed)
    assert main(["vault", "renew", "--data", str(tmp_path)]) == 0
    assert "count as erased" in capsys.readouterr().out
    assert sealer.open(sealed) == sealed  # closed, and nobody waits for its key
    assert sealer.open(sealer.seal(completion("c1"))) == completion("c1")
    sealer.close()


def test_there_is_nothing_to_renew_without_a_service(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["vault", "renew", "--data", str(tmp_path)]) == 2
    assert "not a service's data folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
