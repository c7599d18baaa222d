"""transformers' server, with a model that is loaded already and another application in front of its own."""

import copy
import json
from collections.abc import Callable, Collection
from typing import Any

import transformers
from tokenizers import Tokenizer
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.utils.import_utils import is_serve_available

from .register import Registrations

# The server asks these tables of names whether a model takes pictures, and how it is loaded.
_TABLES = (
    modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

# No file and no repository is meant by it.
NAME = "deepseek_vl_hf/loaded"


def register_for_serving(model_type: str, model_class: type, registrations: Registrations) -> None:
    """Lets `transformers serve` know that a model type takes pictures and text, and find its class as one of its own.

    Args:
        model_type: of the config.
        model_class: with the language model's head.
        registrations: what can be taken back.
    """
    for table in _TABLES:
        registrations.remember(table, model_type)
        table[model_type] = model_class.__name__
    if model_type not in CONFIG_MAPPING_NAMES:
        registrations.remember(vars(transformers), model_class.__name__)
        setattr(transformers, model_class.__name__, model_class)


def check_installed() -> None:
    """Raises ImportError where what the server needs is not installed."""
    if not is_serve_available():
        raise ImportError("Serving needs FastAPI and uvicorn: pip install 'transformers[serving]'")


def showing(processor: Any, tokens: Collection[str]) -> Any:
    """A processor that prepares the same, and in whose answers some control tokens stay when others are dropped."""
    if not tokens:
        return processor
    content = json.loads(processor.tokenizer.backend_tokenizer.to_str())
    for token in content["added_tokens"]:
        token["special"] = token["special"] and token["content"] not in tokens
    shown = copy.copy(processor)
    shown.tokenizer = copy.deepcopy(processor.tokenizer)
    shown.tokenizer._tokenizer = Tokenizer.from_str(json.dumps(content))
    return shown


def server_of(model: Any, processor: Any, address: tuple[str, int], in_front: Callable[[Any], Any]) -> Any:
    """Makes transformers' server for a loaded model.

    Args:
        model: the model, which the server knows as NAME.
        processor: its processor.
        address: host and port to listen on.
        in_front: makes the application to run of the server's own.

    Returns:
        A `uvicorn.Server`; `run()` serves until it is stopped.
    """
    from transformers.cli.serve import Serve  # noqa: PLC0415 - needs FastAPI, where it is installed
    from transformers.cli.serving.model_manager import TimedModel  # noqa: PLC0415

    class ServeLoadedModel(Serve):
        """`Serve` that is made and not started; with `non_blocking` it calls a method for the latter."""

        def start_server(self) -> None:
            """Called last."""
            manager = self._model_manager
            manager.loaded_models[manager.process_model_name(NAME)] = TimedModel(
                model, timeout_seconds=-1, processor=processor
            )
            self.server.config.app = in_front(self.server.config.app)

    host, port = address
    return ServeLoadedModel(non_blocking=True, host=host, port=port, log_level="error").server
