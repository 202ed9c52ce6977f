"""Where a new store is built, and how it comes to its place when its first commit is durable.

For a folder it is built beside it and renamed (`staging.Staging`). For a bucket it is built on this machine, beside the
store's folder there, and copied: the branch comes last, so that a reader finds no store or a whole one.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from sifu_store.errors import StoreExistsError
from sifu_store.folder import Folder
from sifu_store.lock import WriterLock
from sifu_store.place import Place
from sifu_store.places import place_of
from sifu_store.refs import BRANCH, MAIN
from sifu_store.repository import acknowledge, open_icechunk
from sifu_store.staging import Staging
from sifu_store.transfer import copy_files, repository_files


def stage(target: Path, *, force: bool) -> Staging:
    """The directory in which a new store at `target` is built.

    Parameters
    ----------
    target
        Folder of the store, as `places.locate` gives it.
    force
        Whether a store that is there is replaced.

    Raises
    ------
    StoreExistsError
        There is a store and `force` is False, or the path is something else.
    StoreLockedError
        Another process writes to the store that is there.
    """
    place = place_of(target)
    return UploadedStaging(place, force=force) if place.whole_files else Staging(target, force=force)


class UploadedStaging(Staging):
    """The directory of a store that is being built and will be copied to a bucket.

    Parameters
    ----------
    place
        The place of the store.
    force
        Whether a store that is there is replaced.
    """

    def __init__(self, place: Place, *, force: bool) -> None:
        self._place = place
        place.lock().release()  # the bucket can be written
        self._before = place.references()[0]
        if self._before and not force:
            raise StoreExistsError(
                f"{place} is already a sifu store: name another path, or replace it with `force=True`"
            )
        self.target, self._old_lock = place.directory, None
        self._make_directory(place.directory)

    def publish(self) -> WriterLock:
        """Copy the directory to the bucket, delete it, and then the store that was there.

        Raises
        ------
        StoreConflictError
            Another process created or changed the store during the build.
        """
        place, main = self._place, BRANCH + MAIN
        source = Folder(self.directory)
        tip = source.references()[0][main]
        old = repository_files(place)
        copy_files(source, place)
        place.point({main: tip}, expected={main: self._before.get(main)})
        place.drop(dict.fromkeys(name for name in self._before if name != main))
        acknowledge(place.directory, open_icechunk(place.directory), tip, branch=MAIN)
        place.remove(old.keys() - repository_files(source).keys())
        shutil.rmtree(place.directory, ignore_errors=True)  # what belongs to the old store
        place.directory.mkdir(parents=True)
        self.lock.release()
        shutil.rmtree(self.directory, ignore_errors=True)
        return self.lock
