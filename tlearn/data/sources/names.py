"""What the names of folders and files say: splits in every usual spelling, folds, and labels beside a number."""

import re
from collections.abc import Collection, Sequence

from tlearn.data.sources.base import SPLIT_NAMES

_SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "devel", "development"), "val"),
    **dict.fromkeys(("eval", "evaluation", "evaluate"), "val"),
    **dict.fromkeys(("test", "testing", "holdout"), "test"),
}


def _listed(words: str) -> frozenset[str]:
    return frozenset(words.split())


# What such names have besides: train_set, testing-images, valid_data
_FILLERS = _listed("""
    set sets data dataset datasets image images img imgs picture pictures pic pics photo photos file files folder dir
    directory split splits subset sample samples fold folds jpg jpeg png
""")
_FILLER = "|".join(sorted(_FILLERS))
_WORD = re.compile(f"({_FILLER})?({'|'.join(_SPLIT_WORDS)})({_FILLER})?")
_TRAINVAL = re.compile(r"train[\W_]*val(?![a-z])", re.IGNORECASE)
# What lies beside splits and is none: images to predict on, or more of them
_BESIDE = _listed("""
    pred predict prediction predictions inference infer unlabeled unlabelled unknown unsup unsupervised extra trainval
    submission query gallery
""")
_FOLD = re.compile(
    r".*?(fold|kfold|cv|split|subset|partition|part|batch|chunk|shard)s?[\W_]*(\d+|[a-z])", re.IGNORECASE
)
# Folders of a data set that are named after what they hold, not after a class
_IMAGES = _listed("image images img imgs jpegimages data dataset")
_ABOUT_IMAGES = _listed("annotation annotations labels masks trimaps xmls meta metadata bboxes")


def _words(name: str) -> list[str]:
    spaced = re.sub(r"([a-z])([A-Z])", r"\1 \2", name)
    return re.findall(r"[^\W\d_]+", re.sub(r"hold[\W_]*out", "holdout", spaced.lower()))


def split_of(name: str, common: Collection[str] = ()) -> str | None:
    """Return the split that a folder's name means in any spelling, or None.

    Numbers, fillers such as `_set` and the words in `common` do not count; any other word makes it another name.
    """
    if name.lower() in SPLIT_NAMES:
        return SPLIT_NAMES[name.lower()]
    words = [word for word in _words(name) if word not in _FILLERS]
    splits = [_SPLIT_WORDS[match[2]] for word in words if (match := _WORD.fullmatch(word))]
    others = [word for word in words if not _WORD.fullmatch(word) and word not in common]
    return splits[0] if len(splits) == 1 and not others else None


def splits_of(names: Collection[str]) -> dict[str, str | None]:
    """Return the split that each of sibling folders means; words that all share do not count: seg_train, seg_val.

    A trainval beside test is train, of which val is a part.
    """
    shared = set[str].intersection(*(set(_words(name)) for name in names)) if len(names) > 1 else set()
    meant = {name: split_of(name, shared) for name in names}
    if not {"train", "val"} & set(meant.values()):
        meant = {name: split_of(_TRAINVAL.sub("train", name), shared) for name in names}
    return meant


def looks_like_split(name: str) -> bool:
    """Return whether a name has a word for a split, for what lies beside splits, or for a fold."""
    hint = any(_WORD.fullmatch(word) or word in _BESIDE for word in _words(name))
    return hint or bool(_FOLD.fullmatch(name))


def split_class_pattern(names: Collection[str]) -> str | None:
    """Return the regular expression that finds label and split in all names of folders such as cat_train, or None."""
    words = "|".join(_SPLIT_WORDS)
    for form in (r"(?P<label>[^/]+?)[\W_]+(?P<split>%s)", r"(?P<split>%s)[\W_]+(?P<label>[^/]+)"):
        matches = [match for name in names if (match := re.fullmatch(form % words, name, re.IGNORECASE))]
        splits = {match["split"] for match in matches}
        trained = {match["label"] for match in matches if split_of(match["split"]) == "train"}
        found = len(matches) == len(names) and len(splits) > 1 and len(trained) > 1
        if found and trained == {match["label"] for match in matches}:
            return f"^{form % '|'.join(sorted(splits))}/"
    return None


def is_container(name: str) -> bool:
    """Return whether a name says what the files are, such as images or annotations, and so is no class."""
    return name.lower() in _IMAGES | _ABOUT_IMAGES


def is_filler(name: str) -> bool:
    """Return whether a name says nothing of a class, such as images or raw: of a folder within each class folder."""
    words = _words(name)
    return bool(words) and all(word in _FILLERS | _STATES for word in words)


def is_about_images(name: str) -> bool:
    """Return whether a name says that the files are masks or annotations of the images proper."""
    return name.lower() in _ABOUT_IMAGES


# What was done to images
_STATES = _listed("raw original originals frames crop crops cropped resized processed augmented aug")
# What cameras and programs write before a number
_CAMERAS = _listed("dsc dscn dscf dcim frame scan screenshot unknown picture pano mvimg pxl")
# From the narrowest on: a label before a number, then one behind it
_LETTERS = ("[a-z]+", "[A-Za-z]+")
_LABEL_PATTERNS = list(
    map(
        re.compile,
        [
            *(
                rf"(?P<label>{label}){separator}\d+"
                for separator in (r"\.", "_", "-", " ")
                for label in (*_LETTERS, ".+")
            ),
            *(rf"(?P<label>{label}) \(\d+\)" for label in (*_LETTERS, ".+")),
            *(rf"(?P<label>{label})\d+" for label in _LETTERS),
            *(
                rf"\d+{separator}(?P<label>{label})"
                for separator in (r"\.", "_", "-", " ")
                for label in (*_LETTERS, ".+")
            ),
        ],
    )
)


def label_pattern(names: Sequence[str], misses: int = 0) -> str | None:
    """Return the narrowest regular expression that finds a label beside a number in every file name, or None.

    It must find two labels at least, and each of them more than once on average: `cat.0.jpg`, `Abyssinian_12.jpg`,
    `dog (3).jpg`, `cat7.jpg`, `0001_cat.jpg`. `misses` names may be without.
    """
    stems = [name.rpartition(".")[0] or name for name in names]
    for pattern in _LABEL_PATTERNS:
        labels, missed = set(), 0
        for stem in stems:
            if match := pattern.fullmatch(stem):
                labels.add(match["label"])
            elif (missed := missed + 1) > misses:
                break
        else:
            meaningful = {label for label in labels if label.lower() not in _FILLERS | _CAMERAS}
            if len(meaningful) > 1 and len(labels) <= len(stems) // 2:
                return pattern.pattern
    return None


def labels_of(names: Sequence[str]) -> set[str]:
    """Return the labels that stand in nearly all of these file names, or none."""
    pattern = label_pattern(names, misses=1 + len(names) // 10)
    return {match["label"] for name in names if (match := re.match(pattern, name))} if pattern else set()


def are_numbers(names: Sequence[str]) -> bool:
    """Return whether file names are numbers only, such as those of test images."""
    return bool(names) and all(name.partition(".")[0].isdigit() for name in names)
