"""A kind of model of your own: rows are made ready on CPUs, beside the device that answers those before. See own_engine.yaml."""

import re
import zlib

import numpy as np
import torch

WORDS, BUCKETS = re.compile(r"[a-z']+"), 4096


class HashedWords:
    """Counts of hashed words, projected at random onto vectors of unit length; built once in each worker."""

    def __init__(self, size: int = 64, seed: int = 0, device: str = "cpu") -> None:
        generator = torch.Generator().manual_seed(seed)
        self.weights = torch.randn(BUCKETS, size, generator=generator).to(device)

    @staticmethod
    def prepare(batch: dict) -> dict:
        counts = np.zeros((len(batch["text"]), BUCKETS), np.float32)
        for row, text in enumerate(batch["text"]):
            for word in WORDS.findall(text.lower()):
                counts[row, zlib.crc32(word.encode()) % BUCKETS] += 1
        return {"counts": counts}

    def __call__(self, batch: dict) -> dict:
        with torch.inference_mode():
            counts = torch.as_tensor(batch["counts"]).to(self.weights.device)
            vectors = torch.nn.functional.normalize(torch.log1p(counts) @ self.weights)
        return {"vector": vectors.cpu().numpy()}
