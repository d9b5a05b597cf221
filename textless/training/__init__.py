"""What every training shares: the resumable loop, several processes, TensorBoard."""

from textless.lazy import attach

__getattr__, __dir__ = attach(__name__, {}, rest="textless.training.loop")
