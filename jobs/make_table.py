"""Make the input and the weights of the tabular job: random features and a network of random weights, the same at every run.

python jobs/make_table.py [MILLIONS] [FOLDER]
"""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent
FILE_ROWS = 250_000


def make(millions: float, folder: Path) -> None:
    sys.path.insert(0, str(HERE))
    from tabular_model import Scorer

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    (folder / "table").mkdir(parents=True, exist_ok=True)
    save_file(Scorer().state_dict(), folder / "scorer.safetensors")
    for number in range(round(millions * 1_000_000 / FILE_ROWS)):
        columns = {"id": np.arange(FILE_ROWS) + number * FILE_ROWS}
        columns |= {f"f{c:02d}": rng.standard_normal(FILE_ROWS, dtype=np.float32) for c in range(32)}
        path = folder / "table" / f"part-{number:03d}.parquet"
        pq.write_table(pa.table(columns), path, row_group_size=62_500, use_dictionary=False, compression="none")
    print(f"{folder}: {number + 1} files of {FILE_ROWS:,} rows")


if __name__ == "__main__":
    make(
        float(sys.argv[1]) if len(sys.argv) > 1 else 2.0, Path(sys.argv[2]) if len(sys.argv) > 2 else HERE / "generated"
    )
