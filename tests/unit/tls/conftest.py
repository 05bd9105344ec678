"""An operator with an authority of another kind than ours."""

from pathlib import Path

import pytest

from tests.unit.tls.material import Operator


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    folder = tmp_path / "operator"
    folder.mkdir()
    return Operator(folder)
