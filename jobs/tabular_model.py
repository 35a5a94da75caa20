"""The network of the tabular job."""

import torch


class Scorer(torch.nn.Module):
    """32 features to one score, 32-128-64-1."""

    def __init__(self) -> None:
        super().__init__()
        n = torch.nn
        self.net = n.Sequential(n.Linear(32, 128), n.ReLU(), n.Linear(128, 64), n.ReLU(), n.Linear(64, 1))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.net(features).squeeze(1)
