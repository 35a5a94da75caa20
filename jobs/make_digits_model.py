"""Train a small network on the first 1,000 digits and export it: `python jobs/make_digits_model.py [FILE]`."""

import sys
from pathlib import Path

import pyarrow.parquet as pq
import torch

HERE = Path(__file__).parent


class Digits(torch.nn.Module):
    """64 pixels from 0 to 16 to the digit and how sure the network is."""

    def __init__(self) -> None:
        super().__init__()
        n = torch.nn
        self.net = n.Sequential(n.Linear(64, 64), n.ReLU(), n.Linear(64, 10))

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        confidence, digit = self.net(pixels / 16).softmax(1).max(1)
        return digit, confidence


def make(path: Path) -> None:
    torch.manual_seed(0)
    table = pq.read_table(HERE / "data" / "digits.parquet").slice(0, 1000)
    pixels = torch.from_numpy(table["pixels"].combine_chunks().flatten().to_numpy().reshape(-1, 64).copy())
    labels = torch.from_numpy(table["label"].to_numpy().astype("int64"))
    model = Digits()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(200):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model.net(pixels / 16), labels).backward()
        optimizer.step()
    path.parent.mkdir(parents=True, exist_ok=True)
    batch = torch.export.Dim("batch", min=1)
    torch.export.save(torch.export.export(model.eval(), (pixels[:2],), dynamic_shapes=({0: batch},)), path)
    print(f"{path}: exported")


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "generated" / "digits.pt2")
