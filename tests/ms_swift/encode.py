"""Encodes rows with ms-swift, in a process of its own: python encode.py requests.json answers.pt

The requests name the file to register, rows of each model, by its folder, and settings of templates that are refused.
For each model the answers hold a batch, the ids of each row's question, what is learned of the last row where its last
answer alone counts, and the texts of the refusals. ms-swift changes transformers and peft while it is imported.
"""

import json
import sys
from pathlib import Path

import torch


def refusal(get_template, processor, settings):
    try:
        get_template(processor, **settings)
    except ValueError as error:
        return str(error)
    return None


def main(requests: Path, answers: Path) -> None:
    from swift.model import get_processor  # noqa: PLC0415 - not where the tests themselves run
    from swift.template import get_template  # noqa: PLC0415
    from swift.utils import import_external_file  # noqa: PLC0415

    asked = json.loads(requests.read_text(encoding="utf-8"))
    import_external_file(asked["register"])
    found = {}
    for folder, rows in asked["rows"].items():
        processor = get_processor(folder, model_type="deepseek_vl_hf")
        template = get_template(processor)
        template.set_mode("train")
        batch = template.data_collator([template.encode(row) for row in rows])
        template.set_mode("transformers")
        questions = [template.encode({**row, "messages": row["messages"][:-1]})["input_ids"] for row in rows]
        template = get_template(processor, loss_scale="last_round")
        template.set_mode("train")
        encoded = template.encode(rows[-1])
        refused = [refusal(get_template, processor, settings) for settings in asked["refused"]]
        found[folder] = {"batch": batch, "questions": questions, "labels": encoded["labels"], "refused": refused}
    torch.save(found, answers)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
