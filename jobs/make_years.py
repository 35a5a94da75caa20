"""Writes one file more to jobs/generated/years: the speeches of one more year, of which jobs/incremental.yaml makes an extension."""

from pathlib import Path

import polars as pl

here = Path(__file__).parent
speeches = pl.read_parquet(here / "data" / "speeches.parquet")
folder = here / "generated" / "years"
folder.mkdir(parents=True, exist_ok=True)
years = speeches["year"].unique(maintain_order=True)
year = years[len(list(folder.glob("*.parquet")))]
speeches.filter(pl.col("year") == year).write_parquet(folder / f"{year}.parquet")
print(f"wrote {folder / f'{year}.parquet'}")
