"""Names of the files of a store, relative to its place, with `/` between folders."""

from __future__ import annotations

REPOSITORY_NAME = "repository"
"""Folder of the Icechunk repository in a store."""

ACKNOWLEDGED_NAME = "acknowledged"
"""File of a store that names the last commit that was reported as durable, and the current branch."""

REFERENCES, SNAPSHOTS = f"{REPOSITORY_NAME}/refs", f"{REPOSITORY_NAME}/snapshots"
"""Folders of the references and of the snapshots."""

REFERENCE_FILE, DELETED_FILE = "ref.json", "ref.json.deleted"
"""Files of a reference, in the folder that has its name: the id of its snapshot, and the mark of a deleted tag."""
