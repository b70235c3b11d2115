"""The demonstration that `scripts/demo` runs: a real data set under version control, on a local disk.

The data are monthly means of sea surface temperature along the equator, April 2006 to September 2010, from the OSTIA
analysis of satellite and in-situ observations (Met Office; in the `iris-sample-data` package under the Open Government
Licence). The band shows the La Nina of 2007/08 and the El Nino of 2009/10.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
WIDTH = 40
NINO_34 = {"latitude": slice(-5, 5), "longitude": slice(190, 240)}


def bar(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    """The items, with a progress bar on a terminal and a line at the end everywhere."""
    interactive = sys.stdout.isatty()
    start = time.perf_counter()
    for number, item in enumerate(items, 1):
        yield item
        if interactive:
            done = WIDTH * number // total
            print(f"\r  {label} [{'#' * done}{'.' * (WIDTH - done)}] {number}/{total}", end="", flush=True)
    end = f"  {label} [{'#' * WIDTH}] {total}/{total} in {time.perf_counter() - start:.1f} s"
    print(("\r" if interactive else "") + end)


class Clock:
    """Times what it surrounds and remembers."""

    def __init__(self) -> None:
        self.rounds: list[float] = []

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.rounds.append(time.perf_counter() - self._start)

    def __str__(self) -> str:
        return f"{statistics.median(self.rounds) * 1000:.1f} ms"


def section(title: str) -> None:
    print(f"\n\033[1m{title}\033[0m" if sys.stdout.isatty() else f"\n== {title}")


def load() -> Any:
    import iris_sample_data
    import xarray as xr

    path = Path(iris_sample_data.path) / "ostia_monthly.nc"
    dataset = xr.open_dataset(path, engine="h5netcdf", drop_variables=["forecast_reference_time", "forecast_period"])
    dataset = dataset[["surface_temperature"]].rename(surface_temperature="sst").load()
    dataset.sst.encoding = {}
    return dataset.assign_attrs(title="OSTIA monthly mean sea surface temperature, equatorial band")


def write_months(repo: Any, dataset: Any) -> Clock:
    from icechunk.xarray import to_icechunk

    commits = Clock()
    months = range(dataset.sizes["time"])
    for number in bar(months, len(months), "months committed"):
        month = dataset.isel(time=[number])
        session = repo.writable_session("main")
        if number == 0:
            to_icechunk(month, session, mode="w", encoding={"time": {"units": "days since 2006-01-01", "dtype": "f8"}})
        else:
            to_icechunk(month, session, append_dim="time")
        label = str(month.time.dt.strftime("%B %Y").item())
        with commits:
            session.commit(f"Add {label}", metadata={"month": str(month.time.values[0])[:7], "source": "OSTIA"})
    return commits


def correct(repo: Any, dataset: Any) -> None:
    """On a branch: pretend that the last twelve months were calibrated 0.25 K too cold east of the date line."""
    import numpy as np
    import zarr

    repo.create_branch("recalibrated", repo.lookup_branch("main"))
    session = repo.writable_session("recalibrated")
    array = zarr.open_array(session.store, path="sst", mode="r+")
    east = np.flatnonzero((dataset.longitude.values >= 180) & (dataset.longitude.values <= 280))
    where = np.s_[-12:, :, east[0] : east[-1] + 1]
    array[where] = array[where] + np.float32(0.25)
    session.commit("Recalibrate the last twelve months in the eastern Pacific", metadata={"offset_K": 0.25})


def read(repo: Any, **ref: str) -> Any:
    import xarray as xr

    return xr.open_zarr(repo.readonly_session(**ref).store, consolidated=False, chunks=None)


def size_of(path: Path) -> tuple[int, int]:
    files = [file for file in path.rglob("*") if file.is_file()]
    return len(files), sum(file.stat().st_size for file in files)


def picture(first: Any, second: Any, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.dates as mdates
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(15, 6), constrained_layout=True)
    months, degrees = second.time.values, second.longitude.values
    mean = second.sst.mean("latitude") - 273.15
    shown = axes[0].pcolormesh(degrees, months, mean, cmap="turbo", shading="nearest")
    axes[0].set(title="v1.1: temperature at the equator (°C)", xlabel="longitude (°E)")
    figure.colorbar(shown, ax=axes[0])
    change = (second.sst - first.sst).mean("latitude")
    shown = axes[1].pcolormesh(degrees, months, change, cmap="RdBu_r", vmin=-0.3, vmax=0.3, shading="nearest")
    axes[1].set(title="v1.1 minus v1.0 (K)", xlabel="longitude (°E)")
    figure.colorbar(shown, ax=axes[1])
    for dataset, label, style in ((first, "v1.0", "C0-"), (second, "v1.1", "C3--")):
        axes[2].plot(
            dataset.time, dataset.sst.sel(NINO_34).mean(["latitude", "longitude"]) - 273.15, style, label=label
        )
    axes[2].set(title="Niño 3.4 mean (°C)")
    axes[2].xaxis.set_major_locator(mdates.YearLocator())
    axes[2].xaxis.set_major_formatter(mdates.DateFormatter("%Y"))
    axes[2].legend()
    axes[2].grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def main() -> None:
    output = Path(sys.argv[1]).resolve()
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    started = time.perf_counter()

    import icechunk

    section("1. Write: one commit per month")
    dataset = load()
    print(f"  {dataset.sst.shape} values, {dataset.sst.nbytes / 1e6:.1f} MB, into {output / 'ocean'}")
    storage = icechunk.local_filesystem_storage(str(output / "ocean"))
    repo = icechunk.Repository.create(storage)
    commits = write_months(repo, dataset)
    print(f"  a commit takes {commits} (median of {len(commits.rounds)})")

    section("2. Release: a tag never moves")
    repo.create_tag("v1.0", repo.lookup_branch("main"))
    print(f"  v1.0 -> {repo.lookup_tag('v1.0')}")

    section("3. Correct: on a branch, while main stays what it was")
    correct(repo, dataset)
    repo.reset_branch("main", repo.lookup_branch("recalibrated"), from_snapshot_id=repo.lookup_tag("v1.0"))
    repo.create_tag("v1.1", repo.lookup_branch("main"))
    print(
        f"  branches {sorted(repo.list_branches())}, tags {sorted(repo.list_tags())}; main now includes the correction"
    )

    section("4. History")
    history = list(repo.ancestry(branch="main"))
    for info in [*history[:3], None, *history[-2:]]:
        print("   ...") if info is None else print(f"  {info.id}  {info.written_at:%H:%M:%S.%f}  {info.message}")

    section("5. What changed from v1.0 to v1.1")
    print("  " + "\n  ".join(str(repo.diff(from_tag="v1.0", to_tag="v1.1")).splitlines()[:6]))

    section("6. Time travel")
    opening, reading = Clock(), Clock()
    with opening:
        again = icechunk.Repository.open(storage)
        first = read(again, tag="v1.0")
    with reading:
        first.load()
    second = read(again, tag="v1.1").load()
    early = read(again, snapshot_id=history[-13].id)
    print(f"  v1.0 opened in {opening}, {first.sst.nbytes / 1e6:.1f} MB read in {reading}")
    print(f"  as of the twelfth commit: {early.sizes['time']} months, up to {str(early.time.values[-1])[:7]}")
    assert first.sst.equals(dataset.sst), "v1.0 is not what was written"
    for label, version in (("v1.0", first), ("v1.1", second)):
        last = version.sst.sel(NINO_34).isel(time=-1).mean().item() - 273.15
        print(f"  Niño 3.4 in September 2010 according to {label}: {last:.2f} °C")

    section("7. Sizes")
    files, stored = size_of(output / "ocean")
    copies = sum(dataset.sst.nbytes * (number + 1) // len(commits.rounds) for number in range(len(commits.rounds)))
    print(
        f"  {len(history)} versions in {files} files, {stored / 1e6:.1f} MB; whole copies would take {copies / 1e6:.0f} MB"
    )

    picture(first, second, output / "versions.png")
    print(f"\nThe picture is {output / 'versions.png'}; {time.perf_counter() - started:.1f} s in all.")


if __name__ == "__main__":
    main()
