"""Tensors and plain data out of strangers' pickles; nothing in them is run.

- `load_torch`: what `torch.save` wrote;
- `load_joblib`: what `joblib.dump` or `pickle.dump` wrote, such as a k-means of scikit-learn's;
- `plain`: the objects in them (configurations, dictionaries, fitted models) as dicts and lists.
"""

from textless.pickles.data import plain
from textless.pickles.joblibfile import load_joblib
from textless.pickles.machine import Name, Stub
from textless.pickles.torchfile import load_torch

__all__ = ["Name", "Stub", "load_joblib", "load_torch", "plain"]
