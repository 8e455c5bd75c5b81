"""A file to import: dropped, looked at, put right, and sent."""

import re
import shlex
from collections.abc import Mapping
from typing import cast
from urllib.parse import urlencode

import streamlit as st
from streamlit.delta_generator import DeltaGenerator
from streamlit.runtime.uploaded_file_manager import UploadedFile

from reckeeper import wire
from reckeeper.client import Client, ImportOptions
from reckeeper.config import Settings
from reckeeper.errors import ReckeeperError, UnavailableError
from reckeeper.page import access, recommendations, shared

BEGUN = "import begun"
"""Where the session keeps the number of the import that it began last."""

PARTS = {
    "user_id": ("User", "user_column"),
    "item_id": ("Item", "item_column"),
    "interaction_type": ("Type", "type_column"),
    "occurred_at": ("Time", "time_column"),
    "weight": ("Weight", "weight_column"),
    "event_id": ("Event id", "event_id_column"),
}
REQUIRED = {"user_id", "item_id"}
NONE = "—"
DELIMITERS = {"": "Find out", ",": "Comma", ";": "Semicolon", "tab": "Tab", "|": "Vertical bar"}
ENCODINGS = {"": "Find out", "utf-8": "UTF-8", "cp1252": "Western (cp1252)", "utf-16": "UTF-16"}
LAYOUTS = {"": "A row for each interaction", "lists": "Lists of ids", "wide": "A matrix"}
DECIMALS = {"": "Find out", "point": "Point", "comma": "Comma"}
UNITS = {"": "Find out", "s": "Seconds", "ms": "Milliseconds", "us": "Microseconds"}
FORM = {
    "layout": "Layout",
    "delimiter": "Between values",
    "encoding": "Encoding",
    "sheet": "Sheet",
    "skip_lines": "Lines before the table",
    "no_header": "The file has no names of columns",
    "time_format": "Form of times",
    "timezone": "Time zone",
    "time_unit": "Times that are numbers",
    "decimal": "Decimal sign",
    "min_rating": "Least rating that is liked",
}
"""What can be said of how a file is read, with its label."""

_LABELS = {option: label for label, option in PARTS.values()} | FORM
_FIELD = re.compile(r"`([a-z_]+)`")
_TYPES_SHOWN = 12
_ROWS_HEIGHT = 330
_MIB = 1024**2


def show(client: Client) -> None:
    """Show what a file can be dropped on, and what is found in it."""
    if not access.may("operator"):
        return
    st.subheader("Import a file", anchor=False)
    limit = Settings.from_env().page_max_upload_bytes
    begun = st.session_state.get(BEGUN)  # then there is room for the next file
    file = st.file_uploader(
        "What your users did: CSV and its like, JSON lines, Parquet or Excel, packed or not",
        key=f"file {begun}",
        max_upload_size=max(1, limit // _MIB),
        help="Each row says which user did something with which item; everything else is found "
        "out, and can be put right before anything is stored.",
    )
    if file is None:
        show_larger(client, None, {}, limit)
        return
    options = read_form(file.file_id)
    found = _previewed(client, file, options)
    if isinstance(found, wire.ImportPreview):
        show_found(found)
        chosen = ask_columns(f"{file.file_id} {sorted(options.items())}", found)
        if chosen:
            options = cast("ImportOptions", {**options, **chosen})
            found = _previewed(client, file, options)
    if isinstance(found, ReckeeperError):
        st.error(in_labels(shared.in_words(found)))
        ask_form(file.file_id)
        show_larger(client, file.name, options, limit)
        return
    ask_form(file.file_id)
    if found.choices:
        sentences = "; ".join(shared.escape(choice.sentence) for choice in found.choices)
        st.warning(f"Say one thing first: {sentences}.", icon="👆")
    weights = ask_weights(client, file.file_id, found)
    if weights:
        options = cast("ImportOptions", {**options, "weights": weights})
        weighed = _previewed(client, file, options)
        found = weighed if isinstance(weighed, wire.ImportPreview) else found
    show_rows(found)
    catalogue = st.file_uploader(
        "Titles and categories of the items, if you have them (optional)",
        key=f"catalogue {begun}",
        max_upload_size=max(1, limit // _MIB),
    )
    names = [file.name] if catalogue is None else [file.name, catalogue.name]
    st.button(
        f"Import {' with '.join(map(shared.escape, names))}",
        type="primary",
        disabled=bool(found.choices),
        on_click=shared.attempt,
        args=(lambda: begin(client, file, catalogue, options),),
        key="begin",
    )
    show_larger(client, file.name, options, limit)


def begin(
    client: Client, file: UploadedFile, catalogue: UploadedFile | None, options: ImportOptions
) -> None:
    """Send a file, and remember its import."""
    begun = client.import_file(file, filename=file.name, catalogue=catalogue, **options)
    st.session_state[BEGUN] = begun.import_id


def _previewed(
    client: Client, file: UploadedFile, options: ImportOptions
) -> wire.ImportPreview | ReckeeperError:
    """Return what a file is found to be; each is asked for once."""
    kept: dict[str, wire.ImportPreview | ReckeeperError]
    file_id, kept = st.session_state.get("previews", (None, {}))
    if file_id != file.file_id:
        kept = {}
    asked = repr(sorted(options.items()))
    if asked not in kept:
        try:
            with st.spinner("Looking at the file"):
                kept[asked] = client.preview_import(file, filename=file.name, **options)
        except UnavailableError:
            raise
        except ReckeeperError as exc:
            kept[asked] = exc
        st.session_state["previews"] = (file.file_id, kept)
    return kept[asked]


def read_form(file_id: str) -> ImportOptions:
    """Return what was said so far of how a file is read; what was not is found out."""
    options: dict[str, object] = {}
    for name in FORM:
        chosen = st.session_state.get(f"{name} {file_id}")
        if chosen not in (None, "", False):
            options[name] = chosen
    return cast("ImportOptions", options)


def in_labels(text: str) -> str:
    """Return what the API says of a file with the labels of this page in place of its fields."""

    def labelled(field: re.Match[str]) -> str:
        if field[1] in _LABELS:
            return f"“{_LABELS[field[1]]}”"
        is_option = field[1] in wire.ImportOptions.model_fields
        return f"`reckeeper import --{field[1].replace('_', '-')}`" if is_option else field[0]

    return _FIELD.sub(labelled, text)


def show_found(found: wire.ImportPreview) -> None:
    words = found.form.words
    st.markdown(f":green-badge[Found] {shared.escape(words[:1].upper() + words[1:])}")
    for note in found.notes:
        st.caption(shared.sentence(in_labels(note)))


def ask_columns(key: str, found: wire.ImportPreview) -> dict[str, str]:
    """Show which column is what, and return the options that say what was chosen otherwise."""
    of_part = {part.part: part.column for part in found.parts}
    open_parts = {choice.part for choice in found.choices}
    options = {}
    for column, (part, (label, option)) in zip(st.columns(len(PARTS)), PARTS.items(), strict=True):
        choices = found.columns if part in REQUIRED else [NONE, *found.columns]
        usual = None if part in open_parts else of_part.get(part, NONE)
        chosen = column.selectbox(
            label,
            choices,
            index=None if usual is None else choices.index(usual),
            key=f"{part} {key}",
            placeholder="Choose",
        )
        if chosen is not None and chosen != usual:
            options[option] = "" if chosen == NONE else chosen
    return options


def ask_form(file_id: str) -> None:
    """Offer to say how the file is to be read, where what was found is wrong."""
    with st.expander("How the file is read", icon="🔧", key="form"):
        layout, delimiter, encoding, sheet = st.columns(4)
        _ask_one_of(layout, "layout", LAYOUTS, file_id)
        _ask_one_of(delimiter, "delimiter", DELIMITERS, file_id)
        _ask_one_of(encoding, "encoding", ENCODINGS, file_id)
        sheet.text_input(FORM["sheet"], key=f"sheet {file_id}", placeholder="The first")
        form, zone, unit, decimal = st.columns(4)
        form.text_input(
            FORM["time_format"],
            key=f"time_format {file_id}",
            placeholder="Find out",
            help="As for strptime: %d.%m.%Y %H:%M reads 28.05.2013 14:03.",
        )
        zone.text_input(
            FORM["timezone"],
            key=f"timezone {file_id}",
            placeholder="UTC",
            help="Of times that name none, such as Europe/Berlin.",
        )
        _ask_one_of(unit, "time_unit", UNITS, file_id)
        _ask_one_of(decimal, "decimal", DECIMALS, file_id)
        skipped, least, header = st.columns([1, 1, 2], vertical_alignment="bottom")
        skipped.number_input(
            FORM["skip_lines"], min_value=0, value=None, key=f"skip_lines {file_id}"
        )
        least.number_input(
            FORM["min_rating"],
            value=None,
            key=f"min_rating {file_id}",
            help="Rows of a column of ratings with less are stored as seen, not liked.",
        )
        header.checkbox(FORM["no_header"], key=f"no_header {file_id}")


def _ask_one_of(
    place: DeltaGenerator, option: str, choices: Mapping[str, str], file_id: str
) -> None:
    key = f"{option} {file_id}"
    place.selectbox(FORM[option], list(choices), format_func=choices.__getitem__, key=key)


def show_rows(found: wire.ImportPreview) -> None:
    """Show the first rows: as they would be stored, or as they stand in the file."""
    with st.container(height=_ROWS_HEIGHT):
        show_table(found)
    if found.refused:
        first, n_refused = found.refused[0], len(found.refused)
        n = f"{n_refused} of the first rows" if n_refused > 1 else "One of the first rows"
        st.warning(
            f"{n} would be refused: {found.form.unit} {first.line}, {shared.escape(first.column)} "
            f"“{shared.escape(first.value)}” {shared.sentence(in_labels(first.reason))}."
        )


def show_table(found: wire.ImportPreview) -> None:
    if found.rows:
        st.markdown("**The first rows, as they would be stored**")
        shared.table(
            [
                {
                    found.form.unit: row.line,
                    "user": shared.escape(row.user_id),
                    "item": shared.escape(row.item_id),
                    "type": shared.escape(row.interaction_type),
                    "weight": f"{row.weight:g}",
                    "time (UTC)": "now" if row.occurred_at is None else row.occurred_at[:19],
                }
                for row in found.rows
            ],
            alt="The first rows, as they would be stored",
        )
    else:
        st.markdown("**The first rows of the file**")
        shared.table(
            [
                {
                    shared.escape(name): shared.escape(value)
                    for name, value in zip(found.columns, cells, strict=True)
                }
                for cells in found.cells
            ],
            alt="The first rows of the file",
        )


def ask_weights(client: Client, file_id: str, found: wire.ImportPreview) -> str | None:
    """Ask how much each of the file's types counts, and return the weights that are new."""
    types = [
        (name, n)
        for name, n in found.types.items()
        if name not in recommendations.TAKING_BACK and not set(",=") & set(name)
    ]
    if not types:
        return None
    known = client.policy().policy.weights
    st.markdown("**How much each type counts in training**")
    weights: dict[str, float] = {}
    columns = st.columns(4)
    for place, (name, n) in enumerate(types[:_TYPES_SHOWN]):
        is_new = name not in known
        rows = "1 row" if n == 1 else f"{n:,} rows"
        weights[name] = columns[place % len(columns)].number_input(
            f"{shared.escape(name)} ({rows}{', new' if is_new else ''})",
            min_value=0.0,
            value=known.get(name, 1.0),
            step=0.5,
            key=f"weight of {name} {file_id}",
        )
    changed = {name: weight for name, weight in weights.items() if known.get(name) != weight}
    return ",".join(f"{name}={weight:g}" for name, weight in changed.items()) or None


def show_larger(client: Client, name: str | None, options: ImportOptions, limit: int) -> None:
    """Say how a file of any size is imported: by a command, or by a request."""
    with st.expander(f"A file of more than {limit // _MIB} MB, or a script", icon="⌨️"):
        file = shlex.quote(name or "FILE")
        st.markdown("On the machine of Reckeeper, a file of any size:")
        st.code(f"reckeeper import {file}{in_command(options)}", language="bash")
        st.markdown("From anywhere, a part of it in memory at a time:")
        url = shared.reachable_url(client.url)
        query = urlencode({"filename": name or "FILE", **options}, doseq=True)
        st.code(f"curl -X POST -T {file} '{url}/imports?{query}'", language="bash")


def in_command(options: ImportOptions) -> str:
    """Return what was chosen as options of the command."""
    words = []
    for name, value in options.items():
        words.append(f"--{name.replace('_', '-')}")
        if value is not True:
            words.append(shlex.quote(str(value)))
    return "".join(f" {word}" for word in words)
