"""What every implementation must do runs on each: here, on both kinds of database."""

import contextlib
import itertools

import pytest
from tests.conftest import settings_in

from reckeeper import storage


@pytest.fixture(scope="session")
def migrated_postgresql(postgresql, tmp_path_factory):
    """Return a function that gives, for a ``with`` block, the URL of a migrated, empty database."""
    template, numbers = "migrated", itertools.count(1)
    settings = settings_in(tmp_path_factory.mktemp(template))
    storage.migrate(settings.replaced(database_url=postgresql.create(template)))

    @contextlib.contextmanager
    def copy():
        name = f"contract_{next(numbers)}"
        yield postgresql.create(name, template=template)
        postgresql.drop(name)

    return copy


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request, settings):
    """Return settings for one kind of database.

    A test of one kind alone names it:
    ``@pytest.mark.parametrize("settings", ["sqlite"], indirect=True)``.
    """
    if request.param == "sqlite":
        yield settings
        return
    with request.getfixturevalue("migrated_postgresql")() as url:
        yield settings.replaced(database_url=url)


@pytest.fixture
def fresh(request, settings, fresh):
    """Return a function that gives, for a ``with`` block, settings of one more empty database."""
    if settings.is_embedded:
        return fresh

    @contextlib.contextmanager
    def make():
        with fresh() as made, request.getfixturevalue("migrated_postgresql")() as url:
            yield made.replaced(database_url=url)

    return make
