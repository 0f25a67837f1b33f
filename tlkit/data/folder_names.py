"""Meaning of folder names: splits, files of operating systems, and names that look alike."""

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
"""Common names of splits, and the split that each denotes."""
_COLLECTION = re.compile(r"(set|data|dataset|split|images?|imgs?|photos?|pictures?|samples?)$")
"""Possible endings of such names: training_set, train-data, TestImages."""

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
"""Files and folders that systems, network drives and programs create, in lower case."""
HIDDEN, OF_SYSTEM = "hidden", "made by an operating system"
"""Reasons to ignore a file or folder that is not meant to be an image."""
_CASE_SENSITIVE_SYSTEM_NAMES = frozenset(("Icon\r", "RECYCLER", "RECYCLED"))
"""Further ones, compared case-sensitively: in lower case they may be classes."""


def split_of_name(name: str) -> str:
    """Returns the split that the name of a folder, or a cell of a table, denotes, or "".

    Example:
        >>> from tlkit.data.folder_names import split_of_name
        >>> [split_of_name(name) for name in ("valid", "Training_Set", "TEST", "dev", "bees")]
        ['validation', 'train', 'test', 'validation', '']
    """
    plain = re.sub(r"[\s_.-]+|(?:19|20)\d\d$", "", visible_key(name))
    return SPLIT_NAMES.get(plain) or SPLIT_NAMES.get(_COLLECTION.sub("", plain), "")


def split_in_name(name: str) -> str:
    """Returns the one split that words of a name denote, as in "seg_train", else ""."""
    words = re.split(r"[\W_\d]+", visible_key(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name), " "))
    found = {split for word in words if (split := split_of_name(word))}
    return found.pop() if len(found) == 1 else ""


def is_system_name(name: str) -> bool:
    """Whether this is the name of a file or folder that a system or program created."""
    is_known = name.casefold() in SYSTEM_NAMES or name in _CASE_SENSITIVE_SYSTEM_NAMES
    return is_known or bool(re.fullmatch(r"(?i)found\.\d{3}", name))


def reason_to_ignore(name: str) -> str:
    """Returns the reason to ignore a file or folder of this name, or ""."""
    if is_system_name(name):
        return OF_SYSTEM
    if name.startswith("."):
        return HIDDEN
    return "" if is_unicode(name) else "its name is not valid Unicode"


def visible_key(name: str, space: str = "") -> str:
    r"""Returns a name without case, spaces, invisible characters and trailing dots.

    Names with the same key look alike; some systems drop trailing dots.

    Args:
        name: The name of a folder or a class.
        space: The replacement of each space.

    Example:
        >>> from tlkit.data.folder_names import visible_key
        >>> visible_key("New York") == visible_key("new\u200byork.")
        True
    """
    composed = unicodedata.normalize("NFKC", name).casefold()
    characters = (
        space if character.isspace() else character
        for character in composed
        if character.isspace() or not unicodedata.category(character).startswith("C")
    )
    marks = (
        character
        for character in characters
        if not "\ufe00" <= character <= "\ufe0f" or character == space
    )
    return unicodedata.normalize("NFKC", "".join(marks)).rstrip(".").strip()


def similar_names(names: Iterable[str]) -> str:
    """Returns the names that look alike, as text for a message, or "" if none do."""
    by_key: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        by_key.setdefault(visible_key(name), []).append(name)
    pairs = [" and ".join(map(ascii_name, found)) for found in by_key.values() if len(found) > 1]
    return some_of(pairs)


def ascii_name(name: str) -> str:
    """Returns a name between quotes, with escapes for invisible and combining characters."""

    def escape(character: str) -> str:
        is_visible = character.isprintable() and not unicodedata.combining(character)
        return character if is_visible else ascii(character)[1:-1]

    return "".join(map(escape, repr(name)))
