"""TRL, whose trainers also take a folder or repository in place of a model, and make DPO's reference of one.

They read the config and take the class that has the name of its architecture in transformers. For DeepSeek-VL and its
hybrid that is transformers' own class, which reads other pixels and no original checkpoint; for DeepSeek-VL2 there is
none. The Auto classes have names in transformers too, and give the right class.
"""

from typing import Any

from .callers import calls_of_auto_config, module_of

AUTO_CLASS = "AutoModelForImageTextToText"


def named_for_trl(config_dict: dict[str, Any]) -> dict[str, Any]:
    """The fields of a config; where TRL asks for them, with an Auto class for the architecture.

    TRL throws this config away when it has the class. The model's own is read by the Auto class, and is as in the file.
    """
    call = next(calls_of_auto_config(), None)
    if call is None or module_of(call.f_back).partition(".")[0] != "trl":
        return config_dict
    return {**config_dict, "architectures": [AUTO_CLASS]}
