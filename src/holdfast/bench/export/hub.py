"""Uploading an exported model to a model hub."""

from __future__ import annotations

from pathlib import Path

from holdfast.bench.export import folder as model_folder
from holdfast.errors import ConfigurationError, DependencyError, HoldfastError, Option

__all__ = ["check", "push"]

_MISSING = "a model hub needs huggingface_hub: pip install 'holdfast[bench]'"


def check(repository: str) -> None:
    """Refuse a name that no repository can have, before a run is repeated for it.

    Raises:
        DependencyError: without huggingface_hub.
        ConfigurationError: in a sentence that names it.
    """
    try:
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but not in its __all__
    except ImportError as error:
        raise DependencyError(_MISSING) from error
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ConfigurationError(
            Option("repository"), f" is {repository!r}; expected OWNER/NAME in letters, digits, -, _ and ."
        ) from error


def push(folder: Path, repository: str) -> str:
    """Upload an exported model to a model hub: its own files, and nothing else that lies in the folder.

    Args:
        folder: as :func:`export` left it; it stays as it is.
        repository: ``owner/name``.

    Returns:
        Where it is.

    Raises:
        DependencyError: without huggingface_hub.
        StateError: if the folder holds no exported model.
        HoldfastError: in a sentence, without credentials or a network.
    """
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
    except ImportError as error:
        raise DependencyError(_MISSING) from error
    names = model_folder.file_names(folder)
    # The base of the errors of its HTTP client, which is another one from release to release.
    unreachable: type[Exception] = HfHubHTTPError.__mro__[1]
    try:
        api = HfApi()
        api.create_repo(repository, exist_ok=True)
        return str(api.upload_folder(repo_id=repository, folder_path=folder, allow_patterns=names))
    except (LocalTokenNotFoundError, HfHubHTTPError) as error:
        reason = "no credentials that it accepts (hf auth login)"
        if isinstance(error, HfHubHTTPError) and error.response.status_code not in (401, 403):
            reason = str(error).strip().split("\n")[0]
    except HFValidationError as error:
        reason = str(error).strip().split("\n")[0]
    except (unreachable, OSError) as error:
        reason = f"the hub cannot be reached ({type(error).__name__})"
    raise HoldfastError(f"{repository} was not pushed: {reason}; the model is complete in {folder}")
