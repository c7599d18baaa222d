"""Asks vLLM's offline engine, in a process of its own: python offline.py requests.json answers.json

The requests hold the model's folder, arguments of `vllm.LLM`, and groups of conversations; the conversations of a group
are asked at once. For each conversation the answers hold the ids of the prompt and of the answer, or an error's text.
"""

import json
import sys
from pathlib import Path


def main(requests: Path, answers: Path) -> None:
    """Reads the requests, writes the answers."""
    from vllm import LLM, SamplingParams  # noqa: PLC0415 - not where the tests themselves run

    asked = json.loads(requests.read_text(encoding="utf-8"))
    try:
        llm = LLM(asked["model"], **asked["engine"])
    except ValueError as error:
        answers.write_text(json.dumps({"error": str(error)}), encoding="utf-8")
        return
    sampling = SamplingParams(temperature=0, max_tokens=asked["max_tokens"])
    groups = [llm.chat(group, sampling, use_tqdm=False, **asked["chat"]) for group in asked["groups"]]
    found = [
        [{"prompt": list(each.prompt_token_ids), "answer": list(each.outputs[0].token_ids)} for each in group]
        for group in groups
    ]
    answers.write_text(json.dumps({"groups": found}), encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
