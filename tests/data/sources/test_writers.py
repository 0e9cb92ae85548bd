"""Tables as some thirty programs write them: read rightly, or refused with a line that works when it is typed."""

import io
import json
import re
import shlex
from pathlib import Path

import pytest

from tests.conftest import fill
from tlearn.config.compose import compose
from tlearn.data.sources.base import Sample
from tlearn.data.sources.csv import CsvSource
from tlearn.data.sources.folder import FolderSource
from tlearn.errors import ConfigError, DataError

LABELS = ("Kätzchen", "Löwe")
FILES = [(f"{folder}/{number}.jpg", folder) for folder in ("a", "b") for number in range(3)]


def rows(labels: tuple[str, str] = LABELS) -> list[tuple[str, str]]:
    return [(path, labels[folder == "b"]) for path, folder in FILES]


def joined(
    header: str,
    separator: str = ",",
    labels: tuple[str, str] = LABELS,
    end: str = "\r\n",
    quote: str = "",
    tail: str = "",
) -> str:
    lines = [separator.join(f"{quote}{value}{quote}" for value in row) for row in rows(labels)]
    return end.join([header, *lines]) + end + tail


def numbered(header: str, separator: str, quote: str = "", first: int = 0) -> str:
    lines = [
        separator.join([f"{quote}{number}{quote}", *(f"{quote}{value}{quote}" for value in row)])
        for number, row in enumerate(rows(), first)
    ]
    return "\n".join([header, *lines]) + "\n"


IDS = "id,breed\n" + "".join(f"{path[:-4]},{label}\n" for path, label in rows())
WINDOWS = "path,label\r\n" + "".join(f"{path.replace('/', chr(92))},{label}\r\n" for path, label in rows())
RUSSIAN, JAPANESE, FRENCH, POLISH = ("кошка", "собака"), ("猫", "柴犬"), ("éléphant", "grèbe"), ("żółw", "źrebię")
GREEK, SPANISH, DANISH, CZECH = ("γάτα", "σκύλος"), ("león", "ñandú"), ("bjørn", "ræv"), ("kočka", "lišák")

# name -> the table, its encoding, its labels
WRITERS: dict[str, tuple[str, str, tuple[str, str]]] = {
    "excel english, utf-8": (joined("path,label"), "utf-8-sig", LABELS),
    "excel english, blank rows": (joined("path,label,,", tail=",,,\r\n,,,\r\n"), "utf-8-sig", LABELS),
    "excel english, commas behind": (joined("path,label,", tail="").replace("Löwe", "Löwe,,"), "utf-8", LABELS),
    "excel german": (joined("Datei;Tier", ";"), "cp1252", LABELS),
    "excel german, utf-8": (joined("Datei;Tier", ";"), "utf-8-sig", LABELS),
    "excel german, dos": (joined("Datei;Tier", ";"), "cp850", LABELS),
    "excel german, mac": (joined("Datei;Tier", ";", end="\r"), "mac_roman", LABELS),
    "excel german, sep": ("sep=;\r\n" + joined("Datei;Tier", ";"), "cp1252", LABELS),
    "excel french": (joined("Fichier;Espèce", ";", FRENCH), "cp1252", FRENCH),
    "excel polish": (joined("Plik;Gatunek", ";", POLISH), "cp1250", POLISH),
    "excel czech": (joined("Soubor;Druh", ";", CZECH), "cp1250", CZECH),
    "excel russian": (joined("Файл;Вид", ";", RUSSIAN), "cp1251", RUSSIAN),
    "excel greek": (joined("path;label", ";", GREEK), "cp1253", GREEK),
    "excel spanish": (joined("Archivo;Especie", ";", SPANISH), "cp1252", SPANISH),
    "excel danish": (joined("Fil;Art", ";", DANISH), "cp1252", DANISH),
    "excel japanese": (joined("path,label", ",", JAPANESE), "cp932", JAPANESE),
    "excel unicode text": (joined("path\tlabel", "\t", RUSSIAN), "utf-16", RUSSIAN),
    "unix, koi8": (joined("path,label", ",", RUSSIAN, "\n"), "koi8-r", RUSSIAN),
    "libreoffice": (joined('"path","label"', quote='"', end="\n"), "utf-8", LABELS),
    "libreoffice, tabs": (joined("path\tlabel", "\t", end="\n"), "utf-8", LABELS),
    "google sheets": (joined("path,label").removesuffix("\r\n"), "utf-8", LABELS),
    "pandas": (joined("path,label", end="\n"), "utf-8", LABELS),
    "pandas, index": (numbered(",path,label", ","), "utf-8", LABELS),
    "pandas, index read again": (numbered("Unnamed: 0,filename,class", ","), "utf-8", LABELS),
    "pandas, utf-16 without mark": (joined("path,label", end="\n"), "utf-16-le", LABELS),
    "r, write.csv": (numbered('"","path","label"', ",", '"', 1), "utf-8", LABELS),
    "r, write.csv2": (numbered('"";"path";"label"', ";", '"', 1), "utf-8", LABELS),
    "r, write.table": (numbered('"path" "label"', " ", '"', 1), "utf-8", LABELS),
    "r, write.table with tabs": (numbered('"path"\t"label"', "\t", '"', 1), "utf-8", LABELS),
    "kaggle": (IDS, "utf-8", LABELS),
    "windows": (WINDOWS, "utf-8", LABELS),
    "powershell": ("#TYPE System.Object\r\n" + joined('"path","label"', quote='"'), "utf-16", LABELS),
    "database, bars": (joined("path|label", "|", end="\n"), "utf-8", LABELS),
    "quotes behind blanks": (joined('"path", "label"', ", ", quote='"'), "utf-8", LABELS),
    "quotes behind blanks, some": (
        joined('Datei; "Tier"', '; "', end='"\n', tail='"').replace('""', '"'),
        "utf-8",
        LABELS,
    ),
    "json lines": ("".join(json.dumps({"file_name": p, "label": c}) + "\n" for p, c in rows()), "utf-8", LABELS),
    "pandas, records": (json.dumps([{"image": p, "target": c} for p, c in rows()]), "utf-8", LABELS),
}
# Whose labels are the same letters of several languages, or of several alphabets
REFUSED = {
    *("excel french", "excel czech", "excel spanish", "excel danish"),
    *("excel russian", "unix, koi8", "excel greek", "excel japanese"),
}


def listed(file: Path, *options: str) -> list[Sample]:
    """List the images of a table with options as they are typed."""
    data = compose(["data=csv", f"data.csv='{file}'", *options], output_dir=file.parent).data
    return CsvSource(data.csv, data.root, data.columns, data.encoding).listing().samples


def right(labels: tuple[str, str]) -> list[Sample]:
    return [Sample(path, label) for path, label in rows(labels)]


@pytest.fixture
def folder(tmp_path):
    return fill(tmp_path, *(path for path, _ in FILES))


@pytest.mark.parametrize("writer", WRITERS)
def test_the_tables_of_programs_are_read_rightly_or_refused_with_a_line_that_works(folder, writer):
    text, encoding, labels = WRITERS[writer]
    (folder / "table.csv").write_bytes(text.encode(encoding))
    if writer not in REFUSED:
        assert listed(folder / "table.csv") == right(labels)
        return
    with pytest.raises(DataError) as caught:
        listed(folder / "table.csv")
    assert caught.value.exit_status == 3
    offered = re.findall(r"data\.encoding=(\S+): (.*)", str(caught.value))
    # The right one is among them, with the words that it reads.
    [typed] = [f"data.encoding={name}" for name, words in offered if set(labels) <= set(words.split(", "))]
    assert listed(folder / "table.csv", typed) == right(labels)


def test_no_encoding_is_taken_for_another(folder):
    """Every label that is read without being told the encoding is read rightly."""
    for labels in (LABELS, FRENCH, POLISH, CZECH, RUSSIAN, GREEK, SPANISH, DANISH, JAPANESE, ("Straße", "Über")):
        for encoding in ("cp1252", "cp1250", "cp1251", "cp1253", "mac_roman", "cp850", "cp437", "cp932", "koi8-r"):
            try:
                content = joined("path,label", ",", labels).encode(encoding)
            except UnicodeError:
                continue
            (folder / "table.csv").write_bytes(content)
            try:
                found = listed(folder / "table.csv")
            except DataError as error:
                refused = str(error)
            else:
                refused = ""
                assert found == right(labels), encoding
            assert not refused or "data.encoding=" in refused


def test_names_of_files_decide_between_encodings(tmp_path):
    cat, dog = RUSSIAN
    fill(tmp_path, f"{cat}/1.jpg", f"{dog}/2.jpg")
    text = f"path,label\n{cat}/1.jpg,{cat}\n{dog}/2.jpg,{dog}\n"
    (tmp_path / "table.csv").write_bytes(text.encode("cp1251"))
    source = CsvSource(tmp_path / "table.csv")
    assert [sample.label for sample in source.listing().samples] == [cat, dog]
    assert source.listing().notes == ["table.csv is read as cp1251, in which alone it makes sense"]


def test_a_wrong_encoding_is_refused(folder):
    (folder / "table.csv").write_bytes(joined("path,label").encode("cp1252"))
    with pytest.raises(DataError, match=r"not text in data\.encoding=utf-8 .*name another"):
        listed(folder / "table.csv", "data.encoding=utf-8")
    (folder / "table.csv").write_bytes(b"path,label\na/0.jpg,a\xf7\xb7b\n")
    with pytest.raises(DataError, match=r"tried utf-8, utf-16, cp1252.*data\.encoding=NAME"):
        listed(folder / "table.csv")


@pytest.mark.parametrize("index", [False, True])
def test_a_parquet_table_of_pandas_is_read(folder, index):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns: dict[str, object] = {"image": [path for path, _ in rows()], "label": [label for _, label in rows()]}
    columns |= {"__index_level_0__": list(range(6))} if index else {}
    columns["bytes"] = [{"bytes": b"x"}] * 6
    parquet.write_table(pyarrow.table(columns), folder / "table.parquet")
    listing = CsvSource(folder / "table.parquet").listing()
    assert listing.samples == right(LABELS)
    assert listing.notes[0] == "left out the columns of table.parquet that hold no text and no numbers: bytes"
    (folder / "table.parquet").write_bytes((folder / "table.parquet").read_bytes()[:200])
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        CsvSource(folder / "table.parquet").listing()


def test_numbers_of_a_parquet_table_are_classes_as_they_are(folder):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    for values, expected in (([0, 1] * 3, {"0", "1"}), ([0.0, 1.0] * 3, {"0.0", "1.0"})):
        table = pyarrow.table({"path": [path for path, _ in FILES], "label": values})
        parquet.write_table(table, folder / "table.parquet")
        assert {sample.label for sample in CsvSource(folder / "table.parquet").listing().samples} == expected


def test_a_parquet_table_without_the_extra_says_how(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (folder / "table.parquet").write_bytes(b"PAR1" + bytes(100))
    with pytest.raises(ConfigError, match=r'pip install "tlearn\[parquet\]"'):
        CsvSource(folder / "table.parquet").listing()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"PK\3\4xl/workbook.xml", "a workbook or an archive.*save the table as CSV in UTF-8"),
        (b"\xd0\xcf\x11\xe0" + bytes(20), "a workbook or an archive"),
        (b"\x1f\x8b\x08" + bytes(20), "not a table but a gzip archive"),
        (b"<!DOCTYPE html><html>", "not a table but a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "not a table but a Git LFS pointer.*git lfs pull"),
        (b'{"path": "a/0.jpg", "label": "x"}\n[1]\n', "line 2 is not a JSON object"),
        (b'{"path": "a/0.jpg", "label": "x"\n', "cannot be read as a table"),
        (b'{"path": {"0": "a/0.jpg"}, "label": {"0": "x"}}', "one JSON object; expected one for each image"),
        (b'{"a/0.jpg": "x", "a/1.jpg": "y"}', "one JSON object; expected one for each image"),
        (b"path,label\na/0.jpg,x\0\n", "bytes of zero"),
        (b"path:label\na/0.jpg:x\n", "found path:label\nit is one column: the names stand in the first line, with , ;"),
        (b"Pets of 2026,,\npath,label,\na/0.jpg,x,\n", "it is one column: the names stand in the first line"),
    ],
)
def test_what_is_no_table_is_named(folder, content, words):
    (folder / "table.csv").write_bytes(content)
    with pytest.raises(DataError, match=words):
        CsvSource(folder / "table.csv").listing()


class TestColumns:
    def write(self, folder: Path, header: str, *more: str) -> Path:
        text = io.StringIO()
        text.write(header + "\n")
        for number, (path, label) in enumerate(rows()):
            text.write(",".join([path, label, *(one.format(number=number, path=path) for one in more)]) + "\n")
        (folder / "table.csv").write_text(text.getvalue(), encoding="utf-8")
        return folder / "table.csv"

    def test_columns_are_guessed_where_only_one_reading_fits_and_said(self, folder):
        listing = CsvSource(self.write(folder, "photo,animal")).listing()
        assert listing.samples == right(LABELS)
        assert listing.notes == ["guessed from table.csv: data.columns.path=photo data.columns.label=animal"]

    def test_what_a_note_says_can_be_typed(self, folder):
        file = self.write(folder, "photo,animal,width", "40")
        assert listed(file, "data.columns.path=photo", "data.columns.label=animal") == right(LABELS)
        assert listed(file, "data.columns.path=Photo", "data.columns.label=ANIMAL") == right(LABELS)

    @pytest.mark.parametrize("header", ["photo,animal,place", "photo,the animal (common),what's there"])
    def test_several_columns_that_fit_are_refused_with_lines_that_work(self, folder, header):
        file = self.write(folder, header, "field")
        (folder / "table.csv").write_text(
            file.read_text(encoding="utf-8").replace("field", "wood", 1), encoding="utf-8"
        )
        with pytest.raises(DataError, match="no column label, and several fit") as caught:
            listed(file)
        lines = [line.strip() for line in str(caught.value).splitlines() if line.startswith("  ")]
        assert len(lines) == 2
        assert listed(file, *shlex.split(lines[0])) == right(LABELS)

    def test_a_column_that_is_not_there_is_named_with_those_that_are(self, folder):
        with pytest.raises(DataError, match=r"no column breed \(data\.columns\.label\); it has path,label"):
            listed(self.write(folder, "path,label"), "data.columns.label=breed")

    @pytest.mark.parametrize("order", [(0, 1), (1, 0), (1, 0, 2)])
    @pytest.mark.parametrize("separator", [",", ";", "|", "\t", " "])
    def test_a_table_without_a_header_is_refused_with_the_line_to_add(self, folder, separator, order):
        body = "".join(separator.join([*row, "3"][place] for place in order) + "\n" for row in rows())
        (folder / "table.csv").write_text(body, encoding="utf-8")
        with pytest.raises(DataError) as caught:
            listed(folder / "table.csv")
        line = str(caught.value).partition("put a line with the names of the columns above it: ")[2]
        (folder / "table.csv").write_text(line.replace("<tab>", "\t") + "\n" + body, encoding="utf-8")
        assert listed(folder / "table.csv") == right(LABELS)

    def test_a_column_that_looks_like_splits_is_said(self, folder):
        file = self.write(folder, "path,label,subset", "train")
        file.write_text(file.read_text(encoding="utf-8").replace("train", "val", 2), encoding="utf-8")
        notes = CsvSource(file).listing().notes
        assert notes[0].endswith("looks like splits: data.columns.split=subset takes it so")
        splits = {sample.split for sample in listed(file, "data.columns.split=subset")}
        assert splits == {"train", "val"}

    def test_numbers_may_be_names_of_columns(self, folder):
        assert listed(self.write(folder, "0,1"), "data.columns.path=0", "data.columns.label=1") == right(LABELS)


class TestPaths:
    def test_the_folder_that_has_them_is_named(self, tmp_path):
        folder = fill(tmp_path / "set" / "images", *(path for path, _ in FILES))
        (folder / "tables").mkdir()
        for place, root in ((folder / "tables", folder), (folder.parent, folder)):
            (place / "table.csv").write_text(joined("path,label"), encoding="utf-8")
            with pytest.raises(DataError) as caught:
                listed(place / "table.csv")
            hint = str(caught.value).splitlines()[-1]
            assert hint == f"they are there with data.root={root}"
            found = listed(place / "table.csv", hint.split()[-1])
            assert found == right(LABELS)

    @pytest.mark.parametrize(
        "written",
        [
            "data/train/{}",
            "C:\\pics\\{}",
            "/content/{}",
            "~/{}",
            "https://x.org/{}",
            "'{}'",
            "{upper}",
            "{quoted}",
            "{png}",
        ],
    )
    def test_paths_of_another_machine_are_refused_with_what_they_must_be(self, folder, written):
        forms = [
            written.format(path, upper=path.upper(), quoted=path.replace("/", "%2F"), png=path.replace("jpg", "png"))
            for path, _ in FILES
        ]
        text = "path,label\n" + "".join(f"{form},x\n" for form in forms)
        (folder / "table.csv").write_text(text, encoding="utf-8")
        with pytest.raises(DataError) as caught:
            listed(folder / "table.csv")
        line = f"write the paths as they are in {folder}: a/0.jpg, and not {forms[0]}"
        assert str(caught.value).splitlines()[-1] == line

    def test_an_id_that_may_be_two_files_is_refused(self, folder):
        fill(folder, "a/0.png")
        (folder / "table.csv").write_text(IDS, encoding="utf-8")
        with pytest.raises(DataError, match=r"line 2: a/0 may be a/0\.jpg or a/0\.png: write its ending"):
            CsvSource(folder / "table.csv", columns={"path": "id"}).listing()

    def test_ids_and_backslashes_are_said(self, folder):
        (folder / "table.csv").write_text(IDS, encoding="utf-8")
        assert CsvSource(folder / "table.csv").listing().notes[-1] == "paths of table.csv are read with an ending: .jpg"
        (folder / "table.csv").write_text(WINDOWS, encoding="utf-8")
        assert CsvSource(folder / "table.csv").listing().notes == [
            "backslashes in paths of table.csv are read as slashes"
        ]

    def test_a_file_with_a_backslash_in_its_name_is_that_file(self, folder):
        fill(folder, "a\\0.jpg")
        (folder / "table.csv").write_text("path,label\na\\0.jpg,x\na/0.jpg,y\n", encoding="utf-8")
        assert listed(folder / "table.csv") == [Sample("a/0.jpg", "y"), Sample("a\\0.jpg", "x")]

    def test_lines_of_json_end_at_line_feeds_alone(self, folder):
        text = json.dumps({"path": "a/0.jpg", "label": "one\u2028two\x85three"}, ensure_ascii=False)
        (folder / "table.jsonl").write_text(text + "\r\n" + text.replace("0", "1"), encoding="utf-8", newline="")
        assert [sample.label for sample in listed(folder / "table.jsonl")] == ["one\u2028two\x85three"] * 2

    def test_json_that_is_nested_too_deep_is_refused(self, folder):
        (folder / "table.json").write_text("[" * 100_000, encoding="utf-8")
        with pytest.raises(DataError, match="cannot be read as a table"):
            CsvSource(folder / "table.json").listing()

    def test_labels_that_blanks_alone_tell_apart_are_said(self, folder):
        (folder / "table.csv").write_text("path,label\na/0.jpg,cat\na/1.jpg, cat\na/2.jpg,dog \n", encoding="utf-8")
        listing = CsvSource(folder / "table.csv").listing()
        assert {sample.label for sample in listing.samples} == {"cat", "dog"}
        assert listing.notes == ["warning: labels of table.csv are read without the blanks around them: ' cat', 'cat'"]


class TestImageFolder:
    def write(self, root: Path, split: str, form: str = "csv") -> None:
        fill(root / split, "0.jpg", "1.jpg", "x/2.jpg")
        names = ["0.jpg", "1.jpg", "x/2.jpg"]
        lines = {
            "csv": ["file_name,label", *(f"{name},{'cat' if name < '1' else 'dog'}" for name in names)],
            "jsonl": [json.dumps({"file_name": name, "label": "cat" if name < "1" else "dog"}) for name in names],
        }[form]
        (root / split / f"metadata.{form}").write_text("\n".join(lines), encoding="utf-8")

    @pytest.mark.parametrize("form", ["csv", "jsonl"])
    def test_a_table_in_each_split(self, tmp_path, form):
        self.write(tmp_path, "train", form)
        self.write(tmp_path, "validation", form)
        listing = CsvSource(tmp_path).listing()
        assert listing.root == tmp_path
        assert listing.samples[:2] == [Sample("train/0.jpg", "cat", "train"), Sample("train/1.jpg", "dog", "train")]
        assert {sample.split for sample in listing.samples} == {"train", "val"}
        assert len(listing.samples) == 6

    @pytest.mark.parametrize("form", ["csv", "jsonl"])
    @pytest.mark.parametrize("splits", [("",), ("train", "test"), ("train", "validation", "test")])
    def test_a_folder_of_classes_is_not_what_it_is_and_the_refusal_says_so(self, tmp_path, splits, form):
        for split in splits:
            fill(tmp_path / split, "0.jpg", "1.jpg")
            rows = [{"file_name": f"{number}.jpg", "label": "ab"[number]} for number in (0, 1)]
            lines = ["file_name,label", "0.jpg,a", "1.jpg,b"] if form == "csv" else [json.dumps(row) for row in rows]
            (tmp_path / split / f"metadata.{form}").write_text("\n".join(lines), encoding="utf-8")
        with pytest.raises(DataError) as caught:
            FolderSource(tmp_path).listing()
        assert str(caught.value).endswith(f"data=csv data.csv={tmp_path}")
        assert len(listed(tmp_path)) == 2 * len(splits)

    def test_one_table_for_all_splits(self, tmp_path):
        fill(tmp_path, "train/0.jpg", "train/1.jpg", "test/0.jpg")
        text = "file_name,label\ntrain/0.jpg,cat\ntrain/1.jpg,dog\ntest/0.jpg,cat\n"
        (tmp_path / "metadata.csv").write_text(text, encoding="utf-8")
        assert [sample.split for sample in CsvSource(tmp_path).listing().samples] == ["test", "train", "train"]

    def test_one_table_without_splits(self, tmp_path):
        self.write(tmp_path, "")
        assert listed(tmp_path) == [Sample("0.jpg", "cat"), Sample("1.jpg", "dog"), Sample("x/2.jpg", "dog")]

    @pytest.mark.parametrize(("split", "form"), [("", "jsonl"), ("x", "csv")])
    def test_an_image_that_two_tables_list_is_refused(self, tmp_path, split, form):
        self.write(tmp_path, "")
        fill(tmp_path, "x/2.jpg")
        row = json.dumps({"file_name": "0.jpg", "label": "cat"}) if form == "jsonl" else "file_name,label\n2.jpg,cat"
        (tmp_path / split / f"metadata.{form}").write_text(row, encoding="utf-8")
        with pytest.raises(DataError, match=r"metadata\.csv and .*metadata\.\w+ both list .*\.jpg: remove one"):
            CsvSource(tmp_path).listing()

    def test_a_folder_without_a_table_is_refused(self, folder):
        with pytest.raises(DataError, match=r"a folder without metadata\.csv.*data=folder data\.root="):
            CsvSource(folder).listing()
