"""The two files of a version: the native one that is served, the pickle for people.

And the bundle, in which a version travels to another installation. Nothing
here unpickles, and nothing that is read can run.
"""

from reckeeper.artifact.bundle import MAX_BUNDLE_BYTES, Bundle, read_bundle, write_bundle
from reckeeper.artifact.format import (
    Artifact,
    Metadata,
    WrittenFile,
    read,
    sha256_of,
    type_name,
    write_native,
)
from reckeeper.artifact.store import (
    ACTIVE_LINK,
    SCRATCH,
    ModelStore,
    aside_version,
    native_name,
    pickle_name,
    version_of,
)

__all__ = [
    "ACTIVE_LINK",
    "MAX_BUNDLE_BYTES",
    "SCRATCH",
    "Artifact",
    "Bundle",
    "Metadata",
    "ModelStore",
    "WrittenFile",
    "aside_version",
    "native_name",
    "pickle_name",
    "read",
    "read_bundle",
    "sha256_of",
    "type_name",
    "version_of",
    "write_bundle",
    "write_native",
]
