"""The two files of a version: the native one that serves, the pickle for people.

And the bundle, in which a version travels to another installation. Nothing
here unpickles, and nothing that is read can run.
"""

from reckeeper.artifact.bundle import MAX_BUNDLE_BYTES, Bundle, read_bundle, write_bundle
from reckeeper.artifact.files import (
    ACTIVE_LINK,
    Artifact,
    Metadata,
    WrittenFile,
    aside_files,
    aside_version,
    delete,
    delete_aside,
    describe_files,
    linked_version,
    native_name,
    numbered_files,
    pickle_name,
    point_link,
    read,
    remove_unfinished,
    set_aside,
    sha256_of,
    timestamp_name,
    type_name,
    version_of,
    write,
)

__all__ = [
    "ACTIVE_LINK",
    "MAX_BUNDLE_BYTES",
    "Artifact",
    "Bundle",
    "Metadata",
    "WrittenFile",
    "aside_files",
    "aside_version",
    "delete",
    "delete_aside",
    "describe_files",
    "linked_version",
    "native_name",
    "numbered_files",
    "pickle_name",
    "point_link",
    "read",
    "read_bundle",
    "remove_unfinished",
    "set_aside",
    "sha256_of",
    "timestamp_name",
    "type_name",
    "version_of",
    "write",
    "write_bundle",
]
