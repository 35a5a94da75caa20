"""Train three networks of several sizes on the first 1,000 digits and export them: `python jobs/make_digits_models.py [FOLDER]`."""

import sys
from pathlib import Path

import pyarrow.parquet as pq
import torch

HERE = Path(__file__).parent
SIZES = {"linear": 0, "narrow": 24, "wide": 256}


class Digits(torch.nn.Module):
    """64 pixels from 0 to 16 to the digit, how sure the network is, and the probability of each of the ten."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        n = torch.nn
        self.net = n.Sequential(n.Linear(64, hidden), n.ReLU(), n.Linear(hidden, 10)) if hidden else n.Linear(64, 10)

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        probabilities = self.net(pixels / 16).softmax(1)
        confidence, digit = probabilities.max(1)
        return {"digit": digit, "confidence": confidence, "probabilities": probabilities}


def make(folder: Path) -> None:
    table = pq.read_table(HERE / "data" / "digits.parquet").slice(0, 1000)
    pixels = torch.from_numpy(table["pixels"].combine_chunks().flatten().to_numpy().reshape(-1, 64).copy())
    labels = torch.from_numpy(table["label"].to_numpy().astype("int64"))
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, hidden) in enumerate(SIZES.items()):
        torch.manual_seed(seed)
        model = Digits(hidden)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(200):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model.net(pixels / 16), labels).backward()
            optimizer.step()
        rows = torch.export.Dim("batch", min=1)
        exported = torch.export.export(model.eval(), (pixels[:2],), dynamic_shapes=({0: rows},))
        torch.export.save(exported, folder / f"digits-{name}.pt2")
    print(f"{folder}: exported {', '.join(f'digits-{name}.pt2' for name in SIZES)}")


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "generated")
