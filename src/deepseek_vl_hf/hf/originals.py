"""Original checkpoints for whoever opens them with a family's own class instead of an Auto class.

The Auto classes look up what the files name. A class of its own reads them as its own format, and would take the
settings of another model for its own. What can tell them apart knows the families, so it is handed in from above.
"""

from collections.abc import Callable
from typing import Any

# Given a class, a folder or repository, and the arguments of `from_pretrained`: an object of the class if the
# checkpoint is an original one of its family, None if the class may read it by itself. Raises ValueError for another
# family's.
Opener = Callable[[type, Any, dict[str, Any]], Any]
# Given a folder or repository, the arguments of `from_pretrained`, and what it raised. Raises ValueError if it finds
# the file that is at fault.
Explainer = Callable[[Any, dict[str, Any], Exception], None]

_OPENERS: list[Opener] = []
_EXPLAINERS: list[Explainer] = []


def add_opener(opener: Opener, explainer: Explainer) -> Callable[[], None]:
    """Has both asked from now on; gives the function that ends this."""
    _OPENERS.append(opener)
    _EXPLAINERS.append(explainer)

    def end() -> None:
        _OPENERS.remove(opener)
        _EXPLAINERS.remove(explainer)

    return end


def opened_original(cls: type, name_or_path: Any, arguments: dict[str, Any]) -> Any:
    """An object of a class, made from an original checkpoint; None if it is none.

    Raises:
        ValueError: the checkpoint is of another family, or damaged.
    """
    return next((found for opener in _OPENERS if (found := opener(cls, name_or_path, arguments)) is not None), None)


class OpensOriginals:
    """A processor or image processor whose `from_pretrained` also reads original checkpoints of its family."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; an original checkpoint is read as the Auto classes read it.

        Raises:
            ValueError: the checkpoint is of another family, or a file is damaged or holds a value of a wrong kind.
        """
        found = opened_original(cls, pretrained_model_name_or_path, kwargs)
        if found is not None:
            return found
        arguments = dict(kwargs)
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)  # type: ignore[misc]
        except Exception as error:
            for explain in _EXPLAINERS:
                explain(pretrained_model_name_or_path, arguments, error)
            raise


class ConfigOfOriginals:
    """A config whose `from_pretrained`, and that of its models, also reads original checkpoints of its family."""

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """See `PreTrainedConfig.get_config_dict`; of an original checkpoint the fields of the family's config.

        Raises:
            ValueError: an original checkpoint of another family.
        """
        rest = dict(kwargs)
        found = opened_original(cls, pretrained_model_name_or_path, rest)  # takes what it reads out of the arguments
        if found is not None:
            return found.to_dict(), {"name_or_path": str(pretrained_model_name_or_path), **rest}
        return super().get_config_dict(pretrained_model_name_or_path, **kwargs)  # type: ignore[misc]
