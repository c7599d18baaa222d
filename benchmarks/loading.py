"""Loads a checkpoint of a published size with random weights from its original files, and lets it answer once.

    python benchmarks/loading.py deepseek-vl2-tiny --folder /path/with/7/GB
    python benchmarks/loading.py deepseek-vl2-small --layers 7 --folder /path/with/9/GB
    python benchmarks/loading.py deepseek-vl2-small --layers 7 --folder /path/with/9/GB --int4

Time and memory are those of a process of its own. The checkpoint is removed at the end.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from environment import report
from random_checkpoint import PUBLISHED, write_checkpoint

PICTURE = Path(__file__).parent.parent / "examples" / "pictures" / "shapes.png"

# Anonymous memory is the process's own; pages of the mapped files belong to the system, which can drop them.
PROGRAM = """
import json, statistics, sys, threading, time
from pathlib import Path
import torch
import deepseek_vl_hf
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.generation.streamers import BaseStreamer

def own_bytes():
    return int(Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()[0]) * 1024

peak, done = [0], threading.Event()

def watch():
    while not done.wait(0.02):
        peak[0] = max(peak[0], own_bytes())

folder, picture, int4 = sys.argv[1:]
options = {"quantization_config": deepseek_vl_hf.int4_config(device="cpu")} if int4 == "True" else {}
threading.Thread(target=watch, daemon=True).start()
start_whole = int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0]) * 1024
before, start = own_bytes(), time.perf_counter()
model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16, **options).eval()
figures = {"load_seconds": round(time.perf_counter() - start, 2)}
weights = deepseek_vl_hf.quantization_report(model).num_bytes
figures["weights_bytes"] = weights
figures["parameters"] = sum(parameter.numel() for parameter in model.parameters())
figures["peak_while_loading_bytes"] = peak[0] - before
whole = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
figures["peak_with_mapped_files_bytes"] = whole - start_whole
figures["peak_to_weights"] = round((peak[0] - before) / weights, 3)
peak[0] = 0
processor = AutoProcessor.from_pretrained(folder)
content = [{"type": "image", "path": picture}, {"type": "text", "text": "What?"}]
inputs = processor.apply_chat_template(
    [{"role": "user", "content": content}],
    add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
).to(dtype=torch.bfloat16)
ids = inputs["input_ids"]
figures["prompt_tokens"] = ids.shape[1]
figures["image_tokens"] = int((ids == processor.image_token_id).sum())

# When the prompt and each token after it arrive.
class Clock(BaseStreamer):
    def __init__(self):
        self.times = []

    def put(self, value):
        self.times.append(time.perf_counter())

    def end(self):
        pass

for name in ("first_token_of_first_call_seconds", "first_token_seconds"):  # the first one also reads the mapped files
    clock, start = Clock(), time.perf_counter()
    generated = model.generate(**inputs, max_new_tokens=17, min_new_tokens=17, do_sample=False, streamer=clock)
    assert generated.shape[1] == ids.shape[1] + 17
    _, first, *further = clock.times
    figures[name] = round(first - start, 2)
steps = [after - before for before, after in zip([first, *further], further)]
figures["seconds_per_further_token"] = round(statistics.median(steps), 4)
figures["peak_while_answering_bytes"] = peak[0] - before
done.set()
print(json.dumps(figures))
"""


def measure(folder: Path, size: str, layers: int | None, int4: bool) -> dict[str, Any]:
    """Writes the checkpoint and runs the program on it."""
    num_bytes = write_checkpoint(folder / size, size, layers)
    command = [sys.executable, "-c", PROGRAM, str(folder / size), str(PICTURE), str(int4)]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures = json.loads(result.stdout.splitlines()[-1])
    dtype = "bfloat16, 4-bit language layers" if int4 else "bfloat16"
    return {"size": size, "layers": layers or "all", "dtype": dtype, "checkpoint_bytes": num_bytes, **figures}


def main() -> int:
    """Measures, and prints or stores the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=PUBLISHED)
    parser.add_argument("--layers", type=int, help="how many of the language model's layers (default: all)")
    parser.add_argument("--folder", type=Path, help="where the temporary folder goes (default: the system's)")
    parser.add_argument("--int4", action="store_true", help="give the language model 4-bit weights while loading")
    parser.add_argument("--no-result", action="store_true", help="print the figures without writing results/*.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        figures = measure(Path(temporary), arguments.size, arguments.layers, arguments.int4)
    name = f"loading_{arguments.size}" + ("_int4" if arguments.int4 else "")
    report(name, figures, stored=not arguments.no_result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
