"""`python -m tests.oracle`: a table of what exists and what passes, per family, next to torch.

The families `nn` and `optim` are the modules and the optimizers.
Examples: `--family linalg --failures`; `-k softmax -k =add --failures`; `--seed 3 --jobs 2`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

ORDER = (
    *("exists", "signature", "text", "init", "state", "load", "value", "lazy", "gradient"),
    *("second", "gradgrad", "variants", "dtypes", "resume", "refusals", "error"),
)


def table(rows: dict[str, dict[str, list[Any]]]) -> str:
    """The table as text: per family how many names hold for each kind of check."""
    kinds = [
        k for k in ORDER if any(r.kind == k for n in rows.values() for f in n.values() for r in f)
    ]
    widths = [max(len(kind), 8) + 2 for kind in kinds]
    head = "".join(f"{kind:>{width}}" for kind, width in zip(kinds, widths, strict=True))
    lines = [f"{'family':<16}{'names':>7}{head}{'all':>9}"]
    total = [[0, 0] for _ in range(len(kinds) + 1)]
    for family in sorted(rows):
        names = rows[family]
        counts = []
        for kind in (*kinds, None):
            held = [[r.ok for r in f if kind in (None, r.kind)] for f in names.values()]
            held = [one for one in held if one]
            counts.append([sum(map(all, held)), len(held)])
        for sums, count in zip(total, counts, strict=True):
            sums[0], sums[1] = sums[0] + count[0], sums[1] + count[1]
        lines.append(_line(family, len(names), counts, widths))
    if len(rows) > 1:
        lines.append(_line("total", total[-1][1], total, widths))
    return "\n".join(lines)


def _line(family: str, names: int, counts: list[list[int]], widths: list[int]) -> str:
    cells = [f"{good}/{of}" if of else "" for good, of in counts]
    text = "".join(f"{cell:>{width}}" for cell, width in zip(cells, (*widths, 9), strict=True))
    return f"{family:<16}{names:>7}{text}"


def chosen(family_names: list[str], pattern: list[str]) -> Iterable[int]:
    """Indices in `op_db`."""
    from torch.testing._internal.common_methods_invocations import op_db

    from .ops import family, internal

    for index, op in enumerate(op_db):
        if internal(op.name) or (family_names and family(op) not in family_names):
            continue
        if pattern and not any(
            p in op.name if not p.startswith("=") else p[1:] == op.name for p in pattern
        ):
            continue
        yield index


def results(jobs: list[tuple[int, int, int | None]], processes: int) -> Iterator[Any]:
    """What every job found, in any order."""
    from .ops import check_entry

    if processes == 1:
        yield from map(check_entry, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(check_entry, jobs)


def others(family_names: list[str], pattern: list[str]) -> Iterator[Any]:
    """What the checks of modules and of optimizers found."""
    from . import modules, optimizers

    if "nn" in family_names or not (family_names or pattern):
        for name in modules.INFOS:
            yield "nn", name, list(modules.run(name))
    if "optim" in family_names or not (family_names or pattern):
        for result in optimizers.check():
            yield "optim", result.name.partition("[")[0], [result]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.oracle", description=__doc__)
    parser.add_argument("--family", action="append", default=[], help="only these families")
    parser.add_argument(
        "-k", action="append", default=[], help="only names containing this (=NAME: equal)"
    )
    parser.add_argument("--failures", action="store_true", help="print what differs")
    parser.add_argument("--seed", type=int, default=0, help="of the drawn samples")
    parser.add_argument("--limit", type=int, default=None, help="samples per dtype")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    given = parser.parse_args()
    rows: dict[str, dict[str, list[Any]]] = defaultdict(dict)
    jobs = [(index, given.seed, given.limit) for index in chosen(given.family, given.k)]
    failed = False
    for family, name, found in (*results(jobs, given.jobs), *others(given.family, given.k)):
        rows[family].setdefault(name, []).extend(found)
        for result in found:
            failed |= not result.ok
            if given.failures and not result.ok:
                print(f"{result.name:<36} {result.kind:<9} {result.detail}", flush=True)
    for families in (set(rows) - {"nn", "optim"}, {"nn"} & set(rows), {"optim"} & set(rows)):
        if families:
            print(table({family: rows[family] for family in families}), end="\n\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
