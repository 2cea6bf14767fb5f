"""The application's throughput and latency over time, as a PNG with the phases marked."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks.load import Weather, percentile

PARTS = 120
"""Points of a line: enough to see a stall, few enough for a small file."""
_SHADES = ("#cfe3f5", "#e7f0d8", "#fbe6c8", "#f3d6e4", "#dcd6f0")


def draw(weather: Weather, path: Path) -> None:
    """Write the picture. Raises ImportError without matplotlib (``pip install -e '.[bench]'``)."""
    import matplotlib as mpl

    mpl.use("agg")
    mpl.rcParams |= {"font.size": 9}
    from matplotlib import pyplot

    end = max((timing.sent for timing in weather.timings), default=1.0)
    width = max(0.5, end / PARTS)
    moments: list[float] = []
    rates: list[float] = []
    lines: dict[float, list[float]] = {0.5: [], 0.99: [], 0.999: []}
    for number in range(int(end / width)):
        part = [timing for timing in weather.timings if number * width <= timing.sent < (number + 1) * width]
        moments.append(round((number + 0.5) * width, 1))
        rates.append(round(len(part) / width, 1))
        for share, line in lines.items():
            line.append(round(percentile(part, share), 2))
    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(9, 5), height_ratios=(1, 2))
    above.plot(moments, rates, color="#333333", linewidth=1)
    above.set_ylabel("statements / s")
    above.set_ylim(bottom=0)
    for (share, line), color in zip(lines.items(), ("#2a7f3f", "#1f5fa8", "#b3402a"), strict=True):
        below.plot(moments, line, color=color, linewidth=1, label=f"p{share * 100:g}")
    below.set_yscale("log")
    below.set_ylabel("ms")
    below.set_xlabel(f"seconds; 8 clients, {weather.rows:,} rows, points of {width:.1f} s")
    for number, phase in enumerate(weather.phases):
        for axes in (above, below):
            axes.axvspan(phase.begin, phase.end, color=_SHADES[number % len(_SHADES)], label=None, linewidth=0)
        middle = (phase.begin + phase.end) / 2
        above.text(middle, 1.03 + 0.13 * (number % 2), phase.name, ha="center", transform=above.get_xaxis_transform())
    below.axvline(weather.killed_at, color="#b3402a", linestyle=":", linewidth=1)
    below.text(weather.killed_at, 0.02, " kill -9", color="#b3402a", transform=below.get_xaxis_transform())
    below.legend(loc="upper right", frameon=False, ncols=3)
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, format="png", dpi=110, metadata={"Software": None})
    pyplot.close(figure)
