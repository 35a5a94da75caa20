"""A model of your own: built once per worker, called with batches."""

import re


class Readability:
    """The Coleman-Liau index of a text: the US school grade that it takes to read it.

    M. Coleman and T. L. Liau, A computer readability formula designed for machine scoring, J. Appl. Psychol. 60 (1975).
    """

    def __init__(self, longest_word: int = 40) -> None:
        self.word = re.compile(rf"[A-Za-z']{{1,{longest_word}}}")

    def __call__(self, batch: dict) -> dict:
        grades, words = [], []
        for text in batch["text"]:
            found = self.word.findall(text)
            letters = sum(len(w) for w in found)
            sentences = max(1, len(re.findall(r"[.!?]+", text)))
            per_word = 100 / max(1, len(found))
            grades.append(0.0588 * letters * per_word - 0.296 * sentences * per_word - 15.8)
            words.append(len(found))
        return {"grade": grades, "words": words}
