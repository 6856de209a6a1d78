"""`python -m tests.oracle`: a table of what exists and what passes, per family, next to torch.

Examples: `--family linalg --failures`; `-k softmax -k =add --failures`; `--seed 3 --jobs 2`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

KINDS = ("exists", "value", "gradient", "second", "variants", "refusals")


def table(rows: dict[str, dict[str, list[Any]]]) -> str:
    """The table as text: per family how many names hold for each kind of check."""
    lines = [
        f"{'family':<16}{'names':>7}" + "".join(f"{kind:>12}" for kind in KINDS) + f"{'all':>9}"
    ]
    total: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for family in (*sorted(rows), "total"):
        cells = ""
        if family == "total":
            for kind in (*KINDS, "all"):
                cells += f"{f'{total[kind][0]}/{total[kind][1]}':>{9 if kind == 'all' else 12}}"
            lines.append(f"{family:<16}{total['all'][1]:>7}{cells}")
            break
        names = rows[family]
        for kind in KINDS:
            has = [[r.ok for r in found if r.kind == kind] for found in names.values()]
            has = [h for h in has if h]
            good = sum(map(all, has))
            total[kind][0] += good
            total[kind][1] += len(has)
            cells += f"{f'{good}/{len(has)}':>12}"
        good = sum(all(r.ok for r in found) for found in names.values())
        total["all"][0] += good
        total["all"][1] += len(names)
        lines.append(f"{family:<16}{len(names):>7}{cells}{f'{good}/{len(names)}':>9}")
    return "\n".join(lines)


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
    jobs = [(index, given.seed, given.limit) for index in chosen(given.family, given.k)]
    rows: dict[str, dict[str, list[Any]]] = defaultdict(dict)
    for family, name, found in results(jobs, given.jobs):
        rows[family].setdefault(name, []).extend(found)
        if given.failures:
            for result in found:
                if not result.ok:
                    print(f"{result.name:<36} {result.kind:<9} {result.detail}", flush=True)
    print(table(rows))
    return (
        0 if all(r.ok for names in rows.values() for found in names.values() for r in found) else 1
    )


if __name__ == "__main__":
    sys.exit(main())
