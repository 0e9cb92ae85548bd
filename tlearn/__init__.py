"""Transfer learning for image classification: a frozen pretrained body, a small head, one command."""

__version__ = "0.2.0"
