"""The table of docs/serving.md, from benchmarks/results/serving.json."""

from int4_tables import results, table

HEAD = ["engine", "clients at once", "requests per second", "time to the first token", "to start", "grown in 180 turns"]


def serving_table() -> str:
    """Each engine under each load."""
    figures = results("serving.json")
    rows = [
        [
            row["engine"],
            str(row["clients"]),
            f"{row['requests_per_second']:.1f}",
            f"{row['seconds_to_first_token'] * 1000:.0f} ms",
            seconds(figures["seconds_to_start"].get(row["engine"])),
            megabytes(figures["bytes_grown_in_180_turns"].get(row["engine"])),
        ]
        for row in sorted(figures["rows"], key=lambda row: row["engine"])
    ]
    return table(HEAD, rows)


def seconds(value: float | None) -> str:
    """Of a server."""
    return "" if value is None else f"{value:.0f} s"


def megabytes(value: int | None) -> str:
    """Of a server."""
    return "" if value is None else f"{value / 1e6:.0f} MB"
