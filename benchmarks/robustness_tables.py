"""The table of docs/robustness.md, from benchmarks/results/robustness.json."""

from int4_tables import results, table

# In the order in which they are tried: those that take longest first.
GROUPS = {
    "json_files": "small files of a checkpoint",
    "checkpoints": "weights: files, headers, tensors, indexes",
    "command_lines": "command lines and sampling arguments",
    "conversations": "conversations",
    "links": "links to a server",
    "pictures": "pictures",
    "rows": "training rows",
}
HEAD = ["group", "tried", "right", "refused", "bad", "time"]


def cases_table() -> str:
    """What became of the cases of each group."""
    figures = results("robustness.json")
    counts = {name: figures["groups"][name] for name in GROUPS if name in figures["groups"]}
    rows = []
    for name, found in counts.items():
        numbers = (f"{found[key]:,}" for key in ("tried", "right", "refused"))
        rows.append([GROUPS[name], *numbers, f"{found['bad']:,}", f"{found['seconds']:.0f} s"])
    whole = [f"{sum(found[key] for found in counts.values()):,}" for key in ("tried", "right", "refused")]
    bad = f"{sum(found['bad'] for found in counts.values()):,}"
    machine = figures["environment"]
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in ("transformers", "torch", "pillow"))
    notes = (
        f"{machine['processor']}, {machine['cores']} cores; Python {machine['python']}, {versions}, hypothesis "
        f"{figures['hypothesis']}; seed {figures['seed']}; commit {machine['commit']}. Groups ran two at a time."
    )
    rows.append(["all", *whole, bad, f"{figures['seconds']:.0f} s"])
    return f"{table(HEAD, rows)}\n\n{notes}"
