"""The secret that signs keys: made once, for its owner alone, and long enough."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from flux.api.secret import load_secrets, secret_file
from flux.config import Settings
from flux.config.private import create_private
from flux.errors import InputError, NotFoundError


def test_it_is_made_once_with_mode_0600(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    with pytest.raises(NotFoundError, match="flux serve"):
        load_secrets(settings)
    (secret,) = load_secrets(settings, create=True)
    assert len(secret) >= 32
    assert secret_file(settings).stat().st_mode & 0o777 == 0o600
    assert secret_file(settings).parent.stat().st_mode & 0o077 == 0
    assert load_secrets(settings, create=True) == (secret,)
    assert not create_private(secret_file(settings), "another")
    assert [file.name for file in secret_file(settings).parent.iterdir()] == ["jwt-secret"]


def test_another_installation_has_another(tmp_path: Path) -> None:
    one, two = (load_secrets(Settings(home=tmp_path / name), create=True) for name in "ab")
    assert one != two


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    load_secrets(settings, create=True)
    secret_file(settings).chmod(0o640)
    with pytest.raises(InputError, match="0640"):
        load_secrets(settings)


@pytest.mark.parametrize("text", ["short\n", "# nothing\n", "", "x" * 40 + "\nshort"])
def test_a_file_without_a_good_secret_is_refused(tmp_path: Path, text: str) -> None:
    settings = Settings(home=tmp_path)
    create_private(secret_file(settings), text)
    with pytest.raises(InputError) as refused:
        load_secrets(settings)
    assert "xxxx" not in str(refused.value)


def test_the_environment_goes_before_the_file_and_must_be_long_enough(tmp_path: Path) -> None:
    long = "y" * 32
    assert load_secrets(Settings(home=tmp_path, jwt_secret=SecretStr(long))) == (long.encode(),)
    with pytest.raises(InputError, match="FLUX_JWT_SECRET") as refused:
        load_secrets(Settings(home=tmp_path, jwt_secret=SecretStr("hunter2")))
    assert "hunter2" not in str(refused.value)


def test_every_line_verifies_and_the_first_signs(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    create_private(secret_file(settings), f"# new, old\n{'n' * 32}\n{'o' * 32}\n")
    assert load_secrets(settings) == (b"n" * 32, b"o" * 32)
