"""What the names of folders say: splits, what systems leave behind, and names that look alike."""

import re
import unicodedata
from collections.abc import Iterable

from tlkit.errors import is_unicode, some_of

_TRAIN = ("train", "training", "trn")
_VALIDATION = (
    *("val", "valid", "validation", "validate", "validating"),
    *("dev", "devel", "development", "eval", "evaluation"),
)
_TEST = ("test", "testing", "tst", "holdout")
SPLIT_NAMES = {
    **dict.fromkeys(_TRAIN, "train"),
    **dict.fromkeys(_VALIDATION, "validation"),
    **dict.fromkeys(_TEST, "test"),
}
"""What splits are called, and which they are."""
_COLLECTION = re.compile(r"(set|data|dataset|split|images?|imgs?|photos?|pictures?|samples?)$")
"""What such a name may go on with: training_set, train-data, TestImages."""

SYSTEM_NAMES = frozenset(
    name.strip()
    for name in """
    thumbs.db, ehthumbs.db, ehthumbs_vista.db, desktop.ini, $recycle.bin,
    system volume information, msocache, $windows.~bt, $windows.~ws,
    __macosx, network trash folder, temporary items, thevolumesettingsfolder,
    thefindbycontentfolder, resource.frk, lost+found, aquota.user, aquota.group, lost.dir,
    @eadir, @tmp, @recycle, @recently-snapshot, @__thumb, @sharebin, @synoresource, @synoeastream,
    #recycle, #snapshot, ~snapshot, _gsdata_, __pycache__, picasa.ini, zbthumbnail.info,
    pspbrwse.jbf, dropbox.device
    """.replace("\n", " ").split(",")
)
"""What systems, network drives and programs leave among images, in small letters."""
_AS_WRITTEN = frozenset(("Icon\r", "RECYCLER", "RECYCLED"))
"""Likewise, but written so; in small letters they may be classes."""


def split_of_name(name: str) -> str:
    """Returns the split that a folder's name, or a word in a table, says, or "".

    Example:
        >>> from tlkit.data.folder_names import split_of_name
        >>> [split_of_name(name) for name in ("valid", "Training_Set", "TEST", "dev", "bees")]
        ['validation', 'train', 'test', 'validation', '']
    """
    plain = re.sub(r"[\s_.-]+|(?:19|20)\d\d$", "", visible_key(name))
    return SPLIT_NAMES.get(plain) or SPLIT_NAMES.get(_COLLECTION.sub("", plain), "")


def split_in_name(name: str) -> str:
    """Returns the one split that a word in a name stands for, as in "seg_train", or ""."""
    words = re.split(r"[\W_\d]+", visible_key(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name), " "))
    found = {split for word in words if (split := split_of_name(word))}
    return found.pop() if len(found) == 1 else ""


def is_left_by_a_system(name: str) -> bool:
    """Whether an operating system, a network drive or a program made what has this name."""
    is_known = name.casefold() in SYSTEM_NAMES or name in _AS_WRITTEN
    return is_known or bool(re.fullmatch(r"(?i)found\.\d{3}", name))


def unwanted(name: str) -> str:
    """Why a file or folder of this name is not looked at, if it is not."""
    if is_left_by_a_system(name):
        return "made by an operating system"
    if name.startswith("."):
        return "hidden"
    return "" if is_unicode(name) else "its name is not valid Unicode"


def visible_key(name: str, space: str = "") -> str:
    r"""Returns what is left of a name without case, spaces and invisible characters.

    Names with one key look alike, and so do those that end in dots, which some systems drop.

    Args:
        name: Of a folder or a class.
        space: What stands for spaces.

    Example:
        >>> from tlkit.data.folder_names import visible_key
        >>> visible_key("New York") == visible_key("new\u200byork.")
        True
    """
    composed = unicodedata.normalize("NFKC", name).casefold()
    letters = (
        space if letter.isspace() else letter
        for letter in composed
        if letter.isspace() or not unicodedata.category(letter).startswith("C")
    )
    marks = (letter for letter in letters if not "\ufe00" <= letter <= "\ufe0f" or letter == space)
    return unicodedata.normalize("NFKC", "".join(marks)).rstrip(".").strip()


def alike(names: Iterable[str]) -> str:
    """Returns which names look alike, in words for a message, or "" if none do."""
    by_key: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        by_key.setdefault(visible_key(name), []).append(name)
    pairs = [" and ".join(map(ascii_name, found)) for found in by_key.values() if len(found) > 1]
    return some_of(pairs)


def ascii_name(name: str) -> str:
    """Returns a name between quotes, with a code for each character that is not seen as it is."""

    def shown(letter: str) -> str:
        is_seen = letter.isprintable() and not unicodedata.combining(letter)
        return letter if is_seen else ascii(letter)[1:-1]

    return "".join(map(shown, repr(name)))
