"""Which tasks of lmms-eval are not scored on this machine: by whom instead, and what to run for a figure at once."""

from collections.abc import Sequence
from typing import Any

# Tasks of the same benchmark with answers beside their questions.
AT_ONCE = {
    "docvqa_test": "docvqa_val",
    "infovqa_test": "infovqa_val",
    "textvqa_test": "textvqa_val",
    "mmmu_test": "mmmu_val",
    "cmmmu_test": "cmmmu_val",
    "mathvista_test": "mathvista_testmini_format",
    "mmbench_en_test": "mmbench_en_dev_static",
    "mmbench_en_dev": "mmbench_en_dev_static",
}
SUBMISSION = "submission"
JUDGES = ("gpt", "judge")


def metrics_of(doc_to_messages: Any) -> list[str]:
    """Names of a task's metrics.

    Args:
        doc_to_messages: a method of the task, the only thing that a request carries of it. Of anything else there are
            none.
    """
    config = getattr(getattr(doc_to_messages, "__self__", None), "config", None)
    return [str(entry.get("metric")) for entry in getattr(config, "metric_list", None) or ()]


def scored_elsewhere(task: str, metrics: Sequence[str]) -> str | None:
    """What to say of a task before it runs; None of one that is scored here.

    Args:
        task: its name.
        metrics: names of its metrics.
    """
    instead = f" For a figure at once: --tasks {AT_ONCE[task]}." if task in AT_ONCE else ""
    if metrics and set(metrics) == {SUBMISSION}:
        return (
            f"{task} has no published answers. The run writes a file for the benchmark's own server, and no figure."
            + instead
        )
    if any(judge in metric for metric in metrics for judge in JUDGES) and not task.endswith("_static"):
        return (
            f"{task} is scored with the help of another model, for which lmms-eval needs OPENAI_API_KEY. Without it, "
            "answers that are more than a letter or a number are guessed or count as wrong. --log_samples keeps the "
            "answers, so that they can be scored later." + instead
        )
    return None
