"""Asks one question about each of many pictures, in batches, with vLLM; what is answered already is not asked again.

    python examples/batch.py path/to/converted pictures/ answers.jsonl --prompt "What is in the picture?"
    python examples/batch.py path/to/converted questions.jsonl answers.jsonl

The second form reads a JSON object from each line, {"picture": "a.png", "prompt": "..."}; pictures are paths, seen from
the file's folder, or http(s) links. An answer is a line {"picture": ..., "prompt": ..., "answer": ...}, written as soon
as its batch is done. A picture that cannot be read gets an "error" in its place, and the run goes on.
"""

import argparse
import base64
import io
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from deepseek_vl_hf.pictures.opening import open_images

ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
Task = dict[str, str]


def tasks_of(source: Path, prompt: str) -> list[Task]:
    """The questions of a folder of pictures, or of a file of JSON lines.

    Raises:
        ValueError: a line is no object with a picture.
    """
    if source.is_dir():
        files = sorted(path for path in source.rglob("*") if path.suffix.lower() in ENDINGS)
        return [{"picture": str(path), "prompt": prompt} for path in files]
    tasks = []
    for number, line in enumerate(source.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            task = json.loads(line)
            if not isinstance(task, dict) or not isinstance(task.get("picture"), str):
                raise ValueError(f'{source}, line {number}: expected {{"picture": ..., "prompt": ...}}.')
            tasks.append({"picture": task["picture"], "prompt": task.get("prompt") or prompt})
    return tasks


def answered(output: Path) -> set[tuple[str, str]]:
    """What a file of answers holds already; a line that was cut off when a run was stopped does not count."""
    if not output.exists():
        return set()
    done = set()
    text = output.read_text(encoding="utf-8")
    whole, _, rest = text.rpartition("\n")
    if rest:
        output.write_text(f"{whole}\n" if whole else "", encoding="utf-8")
    for line in whole.splitlines():
        task = json.loads(line)
        done.add((task["picture"], task["prompt"]))
    return done


def conversation(task: Task, folder: Path) -> list[dict[str, Any]]:
    """A question as chat messages, the picture in it.

    Raises:
        ValueError: the picture cannot be read.
    """
    place = task["picture"]
    (picture,) = open_images([place if "://" in place else str(folder / place)])
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": task["prompt"]}]
    return [{"role": "user", "content": content}]


def batches(tasks: Iterable[Task], size: int) -> Iterator[list[Task]]:
    """The tasks, so many at a time."""
    rest = iter(tasks)
    while batch := list(islice(rest, size)):
        yield batch


def answer(llm: Any, sampling: Any, batch: list[Task], folder: Path) -> list[Task]:
    """The tasks with their answers, or with what was wrong with their pictures."""
    asked, failed = [], []
    for task in batch:
        try:
            asked.append((task, conversation(task, folder)))
        except ValueError as error:
            failed.append({**task, "error": str(error)})
    outputs = llm.chat([messages for _, messages in asked], sampling, use_tqdm=False) if asked else []
    answers = [
        {**task, "answer": output.outputs[0].text.strip()} for (task, _), output in zip(asked, outputs, strict=True)
    ]
    return [*answers, *failed]


def main() -> None:
    """Reads the command line and answers what is left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a converted checkpoint")
    parser.add_argument("source", type=Path, help="folder of pictures, or file of JSON lines")
    parser.add_argument("output", type=Path, help="file of JSON lines to write, or to go on with")
    parser.add_argument("--prompt", default="Describe the picture.", help="(default: %(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="pictures in memory at a time (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=512, help="of an answer (default: %(default)s)")
    parser.add_argument("--tensor-parallel-size", type=int, default=1, help="GPUs (default: %(default)s)")
    parser.add_argument("--max-model-len", type=int, help="tokens of prompt and answer (default: the model's)")
    arguments = parser.parse_args()
    done = answered(arguments.output)
    tasks = [
        task for task in tasks_of(arguments.source, arguments.prompt) if (task["picture"], task["prompt"]) not in done
    ]
    print(f"{len(tasks)} pictures to ask about, {len(done)} answered already.")
    if not tasks:
        return
    from vllm import LLM, SamplingParams  # noqa: PLC0415 - starts processes of its own; not for nothing

    llm = LLM(
        arguments.model,
        model_impl="transformers",
        tensor_parallel_size=arguments.tensor_parallel_size,
        max_model_len=arguments.max_model_len,
    )
    sampling = SamplingParams(temperature=0, max_tokens=arguments.max_tokens)
    # The paths of a folder are whole already.
    folder = Path() if arguments.source.is_dir() else arguments.source.parent
    with arguments.output.open("a", encoding="utf-8") as file, tqdm(total=len(tasks), unit="picture") as bar:
        for batch in batches(tasks, arguments.batch):
            for task in answer(llm, sampling, batch, folder):
                file.write(json.dumps(task, ensure_ascii=False) + "\n")
            file.flush()
            bar.update(len(batch))


if __name__ == "__main__":
    main()
