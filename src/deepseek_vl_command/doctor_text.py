"""The report of `deepseek-vl doctor` as plain text, to be pasted into a bug report."""

from .doctor import Installed, Report

LABEL = 12
GIB = 2**30


def text_of(report: Report) -> str:
    """The lines of a report; it names no user, folder or computer."""
    system, names = report.system, [*report.required, *report.optional]
    width = max((len(each.name) for each in names), default=0)
    lines = [
        _row("package", f"deepseek-vl-hf {system['version']}"),
        _row("Python", f"{system['python']} (supported: {system['python_wanted'] or 'not known'})"),
        _row("system", system["system"]),
        *_machine(report),
        "",
        "Required packages",
        *(_required(each, width) for each in report.required),
        _tested(report),
        "",
        "Optional packages",
        *(_optional(each, width) for each in report.optional),
        "",
        "Problems" if report.problems else "Problems: none",
        *(f"  {problem}" for problem in report.problems),
    ]
    if report.advice:
        lines += ["", "What would be faster or possible", *(f"  {advice}" for advice in report.advice)]
    return "\n".join(lines)


def _row(label: str, text: str) -> str:
    return f"{label:<{LABEL}}{text}"


def _machine(report: Report) -> list[str]:
    system, torch, package = report.system, report.torch, report.package
    lines = [_row("processor", f"{torch.get('processor') or system['machine']}, {system['cores']} logical cores")]
    if "error" not in torch:
        abilities = torch["abilities"]
        listed = "not known" if abilities is None else ", ".join(abilities) or "none of the faster ones"
        lines.append(_row("abilities", f"{listed} (torch's kernels: {torch['kernels']}, {torch['threads']} threads)"))
    if "error" not in package:
        lines.append(_row("numbers", f"{package['default']} by default, {package['cpu']} on the CPU"))
    total, free = report.memory["bytes"], report.memory["available_bytes"]
    known = "not known" if total is None else f"{total / GIB:.1f} GiB"
    lines.append(_row("memory", known if free is None else f"{known}, {free / GIB:.1f} GiB available"))
    gpus = [f"{gpu['name']}, {gpu['bytes'] / GIB:.1f} GiB" for gpu in torch.get("gpus", [])]
    gpus += ["Apple (MPS)"] if torch.get("mps") else []
    build = f"CUDA {torch['cuda']}" if torch.get("cuda") else f"ROCm {torch['rocm']}" if torch.get("rocm") else "CPUs"
    seen = "not known" if "error" in torch else f"{'; '.join(gpus) or 'none'} (torch is built for {build})"
    return [*lines, _row("GPUs", seen)]


def _required(each: Installed, width: int) -> str:
    mark = "missing" if each.version is None else {True: "ok", False: "WRONG", None: "?"}[each.fits]
    return f"  {mark:<9}{each.name:<{width}}  {each.version or '-':<14}  supported: {each.wanted or 'any'}".rstrip()


def _tested(report: Report) -> str:
    versions = ", ".join(f"{name} {' and '.join(found)}" for name, found in report.tested.items())
    return f"  The test suite runs with {versions}; docs/compatibility.md lists what else was run."


def _optional(each: Installed, width: int) -> str:
    mark = "absent" if each.version is None else {True: "ok", False: "other", None: "?"}[each.fits]
    supported = f" (supported: {each.wanted})" if each.fits is False else ""
    return f"  {mark:<9}{each.name:<{width}}  {each.version or '-':<14}  {each.use}{supported}".rstrip()
