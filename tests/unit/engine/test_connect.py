"""An engine is named by a URL; a wrong one gets a one-line answer."""

from pathlib import Path

import pytest

from muster.engine import connect
from muster.engine.local import LocalEngine
from muster.errors import SetupError


def test_local_names_the_local_engine(tmp_path: Path) -> None:
    assert isinstance(connect(f"local://{tmp_path}/with%20space"), LocalEngine)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("url", ["local://relative/path", "local:relative", "local:///", "podman:///x", ""])
def test_a_wrong_url_is_a_setup_error(url: str) -> None:
    with pytest.raises(SetupError):
        connect(url)
