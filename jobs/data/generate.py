"""The made-up data that train_sequence and train_tabular are tried on; nothing in it was measured.

`python -m jobs.data.generate FOLDER` writes the files that lie beside this module:

* arithmetic.txt: sums and differences in words, one a line, such as `seven plus six is thirteen.`
  The two numbers are drawn, the result follows, so what cannot be predicted of a line is known.
* load.csv: 2,000 hours of temperature and of the electric load that follows from hour, weekday and
  temperature, each with noise that fades over hours.
* houses.csv: 1,200 houses and their prices, which follow from area, age, district and heating, with
  15 % noise; some ages and heatings are left empty.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

_ONES = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen
    fifteen sixteen seventeen eighteen nineteen""".split()  # noqa: SIM905  # one a line is no better
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()  # noqa: SIM905
# RandomState, whose numbers NumPy has promised never to change: the files can be made again.
Random = np.random.RandomState


def words(number: int) -> str:
    """0 to 99 in English, in small letters without hyphens."""
    if number < 20:
        return _ONES[number]
    ten, one = _TENS[number // 10 - 2], number % 10
    return f"{ten} {_ONES[one]}" if one else ten


def arithmetic(lines: int = 2000) -> str:
    """Lines `A plus B is C.` and `A minus B is C.`, with A and B from 0 to 20 and C at least 0."""
    random = Random(0)
    text: list[str] = []
    while len(text) < lines:
        a, b, minus = random.randint(21), random.randint(21), random.randint(2)
        if minus and b > a:
            a, b = b, a
        sign, result = ("minus", a - b) if minus else ("plus", a + b)
        text.append(f"{words(a)} {sign} {words(b)} is {words(result)}.\n")
    return "".join(text)


def load(hours: int = 2000) -> pd.DataFrame:
    """Columns hour (0, 1, ...), temperature in degrees Celsius, load in megawatts."""
    import pandas as pd

    random = Random(1)
    hour = np.arange(hours)
    day = 2 * np.pi * (hour % 24) / 24
    temperature = 12 - 7 * np.cos(day - 0.6) + _fading(random, hours, 0.98, 0.5)
    weekend = hour // 24 % 7 >= 5
    demand = 60 - 12 * np.cos(day) - 6 * np.cos(2 * day) - 10 * weekend
    demand += 0.9 * np.maximum(15 - temperature, 0) + _fading(random, hours, 0.8, 0.8)
    return pd.DataFrame(
        {"hour": hour, "temperature": temperature.round(2), "load": demand.round(2)}
    )


def houses(rows: int = 1200) -> pd.DataFrame:
    """Columns area (square metres), rooms, age (years), district, heating, price (thousands)."""
    import pandas as pd

    random = Random(2)
    area = random.uniform(30, 220, rows).round(1)
    rooms = np.maximum(1, (area / 28 + random.normal(0, 0.7, rows)).round()).astype(int)
    age = random.uniform(0, 90, rows).round()
    district = random.choice(["centre", "harbour", "hills", "north", "south"], rows)
    heating = random.choice(["gas", "heat pump", "oil"], rows, p=[0.5, 0.3, 0.2])
    by_district = {"centre": 5.2, "harbour": 4.1, "hills": 4.6, "north": 2.4, "south": 2.9}
    by_heating = {"gas": 0.0, "heat pump": 25.0, "oil": -20.0}
    price = area * pd.Series(district).map(by_district) * (1 - 0.004 * age)
    price = (price + pd.Series(heating).map(by_heating)) * random.lognormal(0, 0.15, rows)
    table = pd.DataFrame({"area": area, "rooms": rooms, "age": age})
    table = table.assign(district=district, heating=heating, price=price.round(1))
    table.loc[random.rand(rows) < 0.04, "age"] = np.nan
    table.loc[random.rand(rows) < 0.03, "heating"] = None
    return table


def write(folder: Path) -> list[Path]:
    """Write the three files; gives their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in ("arithmetic.txt", "load.csv", "houses.csv")]
    paths[0].write_text(arithmetic(), encoding="utf-8")
    load().to_csv(paths[1], index=False, lineterminator="\n")
    houses().to_csv(paths[2], index=False, lineterminator="\n")
    return paths


def _fading(random: Random, count: int, keep: float, noise: float) -> NDArray[np.float64]:
    """x[t] = keep * x[t-1] + noise."""
    values = np.zeros(count)
    steps = random.normal(0, noise, count)
    for i in range(1, count):
        values[i] = keep * values[i - 1] + steps[i]
    return values


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit("usage: python -m jobs.data.generate FOLDER")
    for path in write(Path(sys.argv[1])):
        print(path)
