"""The versions of an installation and their life: the database decides, the files follow."""

from pathlib import Path

from reckeeper import storage
from reckeeper.artifact import ModelStore
from reckeeper.registry.described import DescribedModel, ListedModel, RetrainAnswer, is_pinned
from reckeeper.registry.pickles import Erased, Pickles
from reckeeper.registry.recovery import Recovery, TakenIn
from reckeeper.registry.switch import Switch
from reckeeper.registry.transfer import Transfer
from reckeeper.registry.versions import MAX_NOTE_CHARS, ActiveModel, Fetch, Versions

__all__ = [
    "MAX_NOTE_CHARS",
    "ActiveModel",
    "DescribedModel",
    "Erased",
    "Fetch",
    "ListedModel",
    "Pickles",
    "Recovery",
    "Registry",
    "RetrainAnswer",
    "Switch",
    "TakenIn",
    "Transfer",
    "Versions",
    "is_pinned",
]


class Registry:
    """What one installation does with its versions, by what it is about.

    Parameters
    ----------
    database : storage.Database
    folder : Path
        Where the model files are.
    maps_files : bool
        Whether versions that are loaded stay in their files, whose memory all processes share;
        nobody may change these in their place then.

    fetch : Fetch, optional
        As of `Versions`.

    Attributes
    ----------
    store : ModelStore
    versions : Versions
    switch : Switch
    recovery : Recovery
    transfer : Transfer
    pickles : Pickles
    """

    def __init__(
        self,
        database: storage.Database,
        folder: Path,
        *,
        maps_files: bool = False,
        fetch: Fetch | None = None,
    ) -> None:
        self.store = ModelStore(folder, maps_files=maps_files)
        self.versions = Versions(database, self.store, fetch=fetch)
        self.pickles = Pickles(database, self.store)
        self.switch = Switch(database, self.store, self.pickles)
        self.recovery = Recovery(database, self.store, self.versions, self.switch)
        self.transfer = Transfer(database, self.store, self.versions)
