"""The small files of a checkpoint, in a folder or in a Hub repository."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)

from ...nano.folder import MODELS, nano_path

# Arguments of from_pretrained that say where and how files are fetched.
HUB_ARGUMENTS = (
    "cache_dir",
    "force_download",
    "local_files_only",
    "proxies",
    "revision",
    "subfolder",
    "token",
)

# Names of the small files, in both layouts.
CONFIG, IMAGES = "config.json", "preprocessor_config.json"
ADAPTERS = "adapter_config.json"  # peft's
PROCESSOR, TOKENIZER = "processor_config.json", "tokenizer_config.json"
VOCABULARY, SPECIAL_TOKENS, TEMPLATE = "tokenizer.json", "special_tokens_map.json", "chat_template.jinja"
OF_PROCESSORS = (PROCESSOR, IMAGES, TOKENIZER, SPECIAL_TOKENS, VOCABULARY)

FileFinder = Callable[[str], Path | None]


def in_folder(folder: Path) -> FileFinder:
    """Finds files of a folder: gives a name's path, or None."""

    def find(name: str) -> Path | None:
        path = folder / name
        return path if path.is_file() else None

    return find


def in_repository(name_or_path: str | Path, **hub_arguments: Any) -> FileFinder:
    """Finds files of a Hub repository or a folder: gives a name's local path, or None.

    Args:
        name_or_path: what `from_pretrained` got.
        **hub_arguments: those of `HUB_ARGUMENTS`.
    """
    if Path(name_or_path).is_dir():
        return in_folder(Path(name_or_path) / (hub_arguments.get("subfolder") or ""))

    # transformers takes `proxies` and leaves them to the environment's variables.
    arguments = {name: value for name, value in hub_arguments.items() if name != "proxies"}

    def find(name: str) -> Path | None:
        try:
            return Path(hf_hub_download(str(name_or_path), name, **arguments))
        except (EntryNotFoundError, GatedRepoError, OfflineModeIsEnabled):
            return None  # absent, or not to be had; whoever needs the file says so
        except HFValidationError as error:
            raise FileNotFoundError(_no_checkpoint(name_or_path)) from error

    return find


def _no_checkpoint(source: str | Path) -> str:
    return f"{source} is no folder. Expected a checkpoint's folder or a Hub repository's name."


def split_hub_arguments(arguments: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of `from_pretrained` as those of the Hub and all others."""
    hub = {name: value for name, value in arguments.items() if name in HUB_ARGUMENTS}
    return hub, {name: value for name, value in arguments.items() if name not in HUB_ARGUMENTS}


def require(find: FileFinder, name: str) -> Path:
    """The path of a file that has to be there.

    Raises:
        FileNotFoundError: it is not.
    """
    path = find(name)
    if path is None:
        raise FileNotFoundError(f"The checkpoint holds no {name}. Expected all files of an original checkpoint.")
    return path


def optional_json(find: FileFinder, name: str) -> dict[str, Any]:
    """The JSON object in a file of the checkpoint; an empty one if there is no such file."""
    path = find(name)
    return {} if path is None else read_json(path)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ValueError: the file holds no JSON object, or one in which a name stands twice.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=without_duplicates)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}). Download the file again.") from error
    except DuplicateNameError as error:
        raise ValueError(f"{path} names {error} twice. Download the file again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a JSON {type(content).__name__}; expected an object.")
    return content


class DuplicateNameError(ValueError):
    """A name stands twice in a JSON object."""


def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Builds a JSON object.

    Raises:
        DuplicateNameError: a name stands twice, of which json would keep the last without a word.
    """
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise DuplicateNameError(repr(name))
        content[name] = value
    return content


def named_folder(name: str | Path) -> Path:
    """The folder of a checkpoint that a person names, to `Chat` or to a command.

    The texts `nano` and `nano-vl2` name the models that come with the package; a folder of such a name is `./nano`, or
    a `Path`. All other names are those of `local_folder`, which knows no model of its own: it reads what files of
    checkpoints name.

    Raises:
        FileNotFoundError: see `local_folder`.
    """
    return nano_path(name) if isinstance(name, str) and name in MODELS else local_folder(name)


def local_folder(source: str | Path) -> Path:
    """The folder of a checkpoint that is named by its folder or by its Hub repository, which is downloaded.

    Raises:
        FileNotFoundError: no such folder, and no name of a repository or no way to the Hub.
    """
    if Path(source).is_dir():
        return Path(source)
    # A Hub name has one slash, and neither part begins with a dot, as those of paths do.
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(source)) or ".." in str(source):
        raise FileNotFoundError(_no_checkpoint(source))
    try:
        folder = Path(snapshot_download(str(source), allow_patterns=["*.json", "*.jinja", "*.safetensors"]))
        if not list(folder.glob("*.safetensors")):
            snapshot_download(str(source), allow_patterns=["pytorch_model*.bin"])
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise FileNotFoundError(
            f"{source} is no folder here, and the Hub repository of that name cannot be downloaded "
            f"({str(error).splitlines()[0]}). Download it where there is a network, and name its folder."
        ) from error
    return folder


def base_folder(folder: Path) -> Path:
    """The folder whose config and weights a checkpoint has: another one's, where it holds adapters for that alone.

    Raises:
        FileNotFoundError: the model that the adapters are for is not there.
        ValueError: the adapters' file does not name one.
    """
    if (folder / CONFIG).is_file() or not (folder / ADAPTERS).is_file():
        return folder
    base = read_json(folder / ADAPTERS).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ValueError(f"{folder / ADAPTERS} names no base_model_name_or_path; expected the model that it is for.")
    try:
        return local_folder(base)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{folder} holds adapters for {base}: {error}") from error
