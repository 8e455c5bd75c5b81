"""What tests of imports share."""

import pytest

from reckeeper.events import files
from reckeeper.events.files import FileFormat


@pytest.fixture
def take(database, settings):
    def run(path, **format):
        return files.import_file(
            database, path, format=FileFormat(**format), settings=settings, actor="test"
        )

    return run


@pytest.fixture
def stored(database):
    def read(*names):
        with database.read() as connection:
            rows = connection.exec_driver_sql(
                f"SELECT {', '.join(names)} FROM user_interactions ORDER BY {', '.join(names)}"
            )
            return [tuple(row) for row in rows]

    return read
