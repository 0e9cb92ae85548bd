"""The programs and what each is for; apart from --help, so that their list is there at once."""

PROGRAMS = {
    "train": "Train a classifier on images.",
    "check": "Check a training without starting it.",
    "evaluate": "Measure a finished run's model again.",
    "predict": "Classify images with a run's model or a backbone.",
    "explore": "Look at a data set before training.",
    "compare": "Put finished runs side by side, best first.",
    "bench": "Time training steps of a network on each device.",
    "cache": "List what is kept between runs, and free disk space.",
}
